"""The commands' parsers: made without torch, told in help, completed by shells."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from adastate.launch.commands import COMMANDS
from adastate.main import main

PARSERS = """
import contextlib, io, json, sys
from adastate.launch.commands import COMMANDS
from adastate.main import main

found = {}
for name, command in COMMANDS.items():
    told = io.StringIO()
    with contextlib.redirect_stdout(told), contextlib.suppress(SystemExit):
        main([name, "--help"])
    command.parser().format_help()
    found[name] = [told.getvalue(), "torch" in sys.modules]
print(json.dumps(found))
"""


def test_no_parser_and_no_help_imports_torch() -> None:
    done = subprocess.run([sys.executable, "-c", PARSERS], capture_output=True, text=True, check=True)
    found = json.loads(done.stdout)
    assert found.keys() == COMMANDS.keys()
    for name, (told, heavy) in found.items():
        assert not heavy, f"`adastate {name} --help`, or its parser, imports torch"
        assert told.startswith(f"usage: adastate {name}"), told[:80]


@pytest.mark.parametrize("name", [name for name, c in COMMANDS.items() if "--run" in c.parser().options])
def test_commands_that_read_run_folders_tell_of_trust(name: str) -> None:
    trusting = {"generate", "live", "evaluate", "compare"}
    assert ("--trust-code" in COMMANDS[name].parser().options) == (name in trusting)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_has_a_word_of_help_and_none_is_abbreviated(name: str) -> None:
    parser = COMMANDS[name].parser()
    assert not parser.allow_abbrev
    for action in parser._actions:
        assert action.help or action.choices, action.option_strings


@pytest.mark.parametrize("shell", ["bash", "zsh"])
def test_shells_complete_commands_options_and_words(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("shtab")
    main(["completion", shell])
    script = capsys.readouterr().out
    for word in (*COMMANDS, "--prompts-extended", "--from-lmdb", "inspect", "--layout", "unipc", "--ckpt_path"):
        assert word in script, word


def test_a_shell_completes_what_is_typed(capsys: pytest.CaptureFixture[str]) -> None:
    """bash itself is asked what it would put there."""
    pytest.importorskip("shtab")
    main(["completion", "bash"])
    script = capsys.readouterr().out

    def completed(*words: str) -> set[str]:
        ask = (
            f"COMP_WORDS=({' '.join(words)!s} '') COMP_CWORD={len(words)}\n"
            if words[-1][0] != "-"
            else (f"COMP_WORDS=({' '.join(words)}) COMP_CWORD={len(words) - 1}\n")
        )
        run = f'{script}\n{ask}_shtab_adastate\nprintf "%s\\n" "${{COMPREPLY[@]}}"'
        done = subprocess.run(["bash", "-c", run], capture_output=True, text=True, check=True)
        return {*done.stdout.split()}

    assert completed("adastate") >= COMMANDS.keys()
    found = completed("adastate", "generate", "--se")
    assert found >= {"--seed", "--seconds"} and all(word.startswith("--se") for word in found)
    assert completed("adastate", "weights") >= {"inspect", "import", "export"}
