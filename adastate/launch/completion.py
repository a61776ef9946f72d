"""`adastate completion`: prints a script by which a shell completes the commands of adastate and their options.

bash: adastate completion bash > ~/.local/share/bash-completion/completions/adastate; zsh: a file named _adastate in a
folder of $fpath. It is written by shtab: pip install shtab. docs/reference/commands.md has both.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from adastate.launch.commands import COMMANDS
from adastate.runtime.arguments import Arguments

SHELLS = ("bash", "zsh")
FILES = ("--config", "--run", "--weights", "--teacher", "--codec", "--data", "--ckpt_path", "folder", "source")
"""Options whose text is a file's name, beside those that are paths by their type."""


def main(argv: list[str]) -> None:
    shell = parser().parse_args(argv).shell
    try:
        import shtab
    except ImportError as error:
        raise SystemExit("adastate completion: it is written by shtab: pip install shtab") from error

    whole = whole_parser()
    for part in _parsers(whole):
        for action in part._actions:
            if action.choices is None and _is_file(action):
                action.complete = shtab.FILE  # type: ignore[attr-defined]
    print(shtab.complete(whole, shell))


def parser() -> Arguments:
    """What `adastate completion` takes."""
    found = Arguments("adastate completion", description=__doc__)
    found.add_argument("shell", choices=SHELLS, help="shell to complete in")
    return found


def whole_parser() -> Arguments:
    """One parser with all commands, each with its own options."""
    whole = Arguments("adastate")
    whole.add_argument("--version", "-V", action="store_true", help="print the version")
    verbs = whole.add_subparsers(metavar="COMMAND")
    for name, command in COMMANDS.items():
        verbs.add_parser(name, help=command.about, parents=[command.parser()], add_help=False)
    return whole


def _parsers(parser: argparse.ArgumentParser) -> list[argparse.ArgumentParser]:
    """A parser and all below it."""
    below = [p for a in parser._actions if isinstance(a, argparse._SubParsersAction) for p in a.choices.values()]
    return [parser, *(found for part in below for found in _parsers(part))]


def _is_file(action: argparse.Action) -> bool:
    made = getattr(action.type, "__annotations__", {}).get("return")
    return action.type is Path or made in (Path, "Path") or bool({action.dest, *action.option_strings} & {*FILES})
