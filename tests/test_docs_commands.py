"""Commands that the documents show are parsed, and none is run; tables have the code's defaults; quoted messages are
the code's.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import dataclasses
import importlib
import inspect
import io
import re
import shlex
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from adastate.config.command_line import read_command
from adastate.config.compose import compose
from adastate.config.schema import ConfigError
from adastate.config.validate import check_words
from adastate.launch.commands import COMMANDS
from adastate.main import main
from benchmarks import remake_results
from tests.test_docs import DOCS, ROOT, flags, makefile


def test_every_make_target_and_command_is_in_the_reference() -> None:
    told = (ROOT / "docs/reference/make.md").read_text()
    assert {t for t in makefile()[0] if f"`make {t}`" not in told} == set()
    variables = re.findall(r"^(?:export )?([A-Z]+) *\?=", (ROOT / "Makefile").read_text(), re.M)
    assert {v for v in variables if f"`{v}`" not in told} == set()
    text = (ROOT / "docs/reference/commands.md").read_text()
    sections = dict(re.findall(r"^## (\w+)$(.*?)(?=^## |\Z)", text, re.M | re.S))
    assert sections.keys() == COMMANDS.keys()
    shared = {"--help", "--config", "--system", "--run", "--data", "--trust-code"}
    for command, part in sections.items():
        known = set(re.findall(r"`(--[a-z][\w-]*)", part))
        assert flags(command) - known - shared == set(), command


UNFINISHED = ("expected one argument", "expected at least one argument", "arguments are required")
"""What a parser says of a sentence's `adastate generate --image`."""


class _Parsed(Exception):
    """The arguments of a command have been read, and nothing else of it shall happen."""


@pytest.fixture
def only_parsed(monkeypatch: pytest.MonkeyPatch) -> None:
    whole, known = argparse.ArgumentParser.parse_args, argparse.ArgumentParser.parse_known_args
    depth = 0

    def nested(read: Callable[..., Any]) -> Callable[..., Any]:
        def parse(*args: Any, **kwargs: Any) -> Any:
            nonlocal depth
            depth += 1
            try:
                found = read(*args, **kwargs)
            finally:
                depth -= 1
            if not depth:
                raise _Parsed
            return found

        return parse

    monkeypatch.setattr("adastate.main.signals.listen", dict)
    monkeypatch.setattr("adastate.runtime.argument_types._there", lambda text, *_: Path(text))  # the reader's files
    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", nested(whole))
    monkeypatch.setattr(argparse.ArgumentParser, "parse_known_args", nested(known))


def commands(text: str) -> Iterator[tuple[str, bool]]:
    """(command, whether it is whole): lines of blocks, with their variables put in, and spans of sentences."""
    for block in re.findall(r"^```bash\n(.*?)^```", text, re.M | re.S):
        given: dict[str, str] = {}
        for line in block.replace("\\\n", " ").splitlines():
            if setting := re.match(r'([A-Z]+)="(.*?)"', line):
                given[setting[1]] = setting[2]
            for name, value in given.items():
                line = line.replace(f"${name}", value)
            for command in re.findall(r"(?:^|&& |-- |srun )((?:make|adastate) .*?)(?= && |;| > |$)", line):
                yield command, True
    for span in re.findall(r"`((?:make|adastate) [^`]*)`", re.sub(r"^```.*?^```", "", text, flags=re.M | re.S)):
        if not re.search(r"\.\.\.|[|<*]|=(?= |$)", span):
            yield " ".join(span.split()), False


def wrong_arguments(command: str, words: list[str]) -> str | None:
    """What the parser of `adastate COMMAND` has to say against them."""
    before = ["", *words]
    words = [w for w, b in zip(words, before, strict=False) if w != "..." or (b.startswith("--") and b != "--config")]
    words = [w for w, after in zip(words, [*words[1:], "--"], strict=False) if w != "--config" or after[:2] != "--"]
    told = io.StringIO()
    try:
        with contextlib.redirect_stderr(told), contextlib.redirect_stdout(io.StringIO()):
            if command == "fit":
                check_words(*read_command(words))
            else:
                main([command, *words])
    except _Parsed:
        pass
    except SystemExit as stop:
        if stop.code:
            said = str(told.getvalue().splitlines()[-1:])
            return f"{stop.code} {said}"
    except ConfigError as error:
        return str(error)
    return None


@pytest.mark.slow
def test_every_command_parses(only_parsed: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    wrong, seen = {}, set[str]()
    told = {found for p in DOCS if p.stem != "extending" for found in commands(p.read_text())}
    for line, whole in sorted(told - {("adastate COMMAND --help", False)}):
        words = shlex.split(line, comments=True)
        lines = [line]
        if words[0] == "make":
            made = subprocess.run(["make", "-n", *words[1:]], capture_output=True, text=True)
            shown = made.stdout.replace("\\\n", " ")
            lines = [f"adastate {x}" for x in re.findall(r"(?:bin/adastate|slurm\.sh submit) (.*)", shown)]
            if made.returncode:
                wrong[line] = made.stderr
        for one in lines:
            _, command, *rest = shlex.split(one, comments=True)
            reason = wrong_arguments(command, rest)
            if reason is not None and (whole or not any(words in reason for words in UNFINISHED)):
                wrong[line] = reason
            seen.add(command)
    assert wrong == {}
    assert seen >= COMMANDS.keys()


def test_every_script_that_documents_name_is_there_and_takes_its_words(
    only_parsed: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`python benchmarks/health.py draw`, `python -m tests.test_house`: those of the tables of provenance, too."""
    wrong, seen = [], set[str]()
    for text in (page.read_text().replace("\\\n", " ") for page in DOCS):
        spans = re.findall(r"`(python [^`]*)`", text) + re.findall(r"^(python .*)", text, re.M)
        for line in spans:
            _, *words = shlex.split(" ".join(line.split()), comments=True)
            name = words[1] if words[0] == "-m" else words[0].removesuffix(".py").replace("/", ".")
            rest = words[2:] if words[0] == "-m" else words[1:]
            if name.partition(".")[0] not in ("benchmarks", "tests", "datamodules", "adastate"):
                continue
            seen.add(name)
            script = importlib.import_module(name)
            if not hasattr(script, "main"):
                wrong += [] if "__main__" in inspect.getsource(script) else [line]
                continue
            monkeypatch.setattr("sys.argv", [name, *rest])
            told = io.StringIO()
            try:
                with contextlib.redirect_stderr(told):
                    script.main()
            except _Parsed:
                pass
            except SystemExit:
                wrong.append(f"{line}: {told.getvalue().splitlines()[-1]}")
    assert wrong == []
    assert seen >= {"benchmarks.health", "benchmarks.flight_gates", "tests.test_house"}


def test_the_numbers_that_make_results_makes_anew_stand_where_it_looks(only_parsed: None) -> None:
    """What the pages say is found, the commands of its parts parse, and another number is seen."""
    for part in remake_results.PARTS:
        assert [told.key for told in part.told if told.said() != told.said()] == []
        name, command, *rest = shlex.split(part.command.format(out="runs/results"))
        assert name in ("make", "ls") or wrong_arguments(command, rest) is None, part.command
    made = remake_results.bundled_sizes(Path())
    weights = next(part for part in remake_results.PARTS if part.name == "weights")
    assert all(told.holds(told.said(), made[told.key]) for told in weights.told)
    assert not any(told.holds(1.1 * told.said(), made[told.key]) for told in weights.told)
    page = "| | a | b |\n|---|---|---|\n| x | 1 | **1.43, not passed** |\n| y | 84% | 3.6 million |\n"
    cells = [remake_results.cell(page, row, column) for row in "xy" for column in "ab"]
    assert [remake_results.first_number(text) for text in cells] == pytest.approx([1, 1.43, 0.84, 3.6e6])
    with pytest.raises(LookupError, match="no table has the row 'z'"):
        remake_results.cell(page, "z", "a")
    bound = remake_results.Quoted("README.md", "", r"are met within ([\de-]+)", at_most=True)
    assert bound.holds(4e-6, 1e-7) and not bound.holds(4e-6, 5e-6)


def written(value: Any) -> str:
    """A value as the tables of keys have it."""
    plain = {None: "null", True: "true", False: "false", inspect.Parameter.empty: "(required)", "": '""'}
    if dataclasses.is_dataclass(value):
        return "below"
    if isinstance(value, (tuple, list)):
        return f"[{', '.join(map(written, value))}]"
    return plain[value] if isinstance(value, (type(None), bool, type)) or value == "" else str(value)


def test_the_table_of_keys_has_the_defaults_of_the_code() -> None:
    text = (ROOT / "docs/reference/configuration.md").read_text()
    heading = r"^##+ .*?`?((?:adastate|datamodules|callbacks)\.[\w.]+)`$"
    for name, table in re.findall(rf"{heading}(.*?)(?=^##|\Z)", text, re.M | re.S):
        module, _, cls = name.rpartition(".")
        parameters = inspect.signature(getattr(importlib.import_module(module), cls).__init__).parameters
        defaults = {k: written(v.default) for k, v in parameters.items() if k not in ("self", "args", "kwargs")}
        whole = {"stream": "AdaState's", "switch": "keep"}
        told = dict(re.findall(r"^\| `(\w+)` \| (.*?) \|", table, re.M))
        assert told == {k: whole.get(k, v) for k, v in defaults.items()}, name
    base = compose([ROOT / "conf/base.yaml"]).variables
    sizes = [compose([ROOT / "conf/base.yaml", ROOT / f"conf/sizes/{s}.yaml"]).variables for s in ("tiny", "wan_1_3b")]
    rows = re.findall(r"^\| `([\w.]+)` \| (.*?) ?\| (.*?) ?\| (.*?) ?\| .* \|$", text, re.M)
    assert len(rows) > 25
    for key, *cells in rows:
        for found, cell in zip((base, *sizes), cells, strict=True):
            for part in key.split(".") if cell else ():
                found = found[part]
            assert not cell or cell == "six prompts" or cell == written(found), key


def test_quoted_messages_are_those_of_the_code() -> None:
    literals = []
    for path in (p for part in ("adastate", "datamodules", "callbacks") for p in (ROOT / part).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.JoinedStr):
                literals.append("".join(v.value if isinstance(v, ast.Constant) else "\0" for v in node.values))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                literals.append(node.value)
    rows = re.findall(r"^\| `(.*?)`", (ROOT / "docs/troubleshooting.md").read_text(), re.M)
    patterns = {row: ".*".join(re.escape(part.strip()) for part in row.split("...")) for row in rows}
    assert [row for row, pattern in patterns.items() if not any(re.search(pattern, x, re.S) for x in literals)] == []
    assert len(rows) > 50
