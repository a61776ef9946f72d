"""The house: imports go from higher floors to lower ones, nothing goes round in a circle, and no file grows too long.

Run by hand it prints the floors, with files, lines and arrows:

    python -m tests.test_house
"""

from __future__ import annotations

import ast
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping
from functools import cache
from graphlib import CycleError, TopologicalSorter
from itertools import islice
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FLOORS: tuple[frozenset[str], ...] = tuple(
    frozenset(floor.split())
    for floor in (
        "adastate.types adastate.runtime",
        "adastate.media adastate.metrics adastate.encoders adastate.diffusion adastate.models datamodules.worlds",
        "adastate.stream adastate.weights adastate.optim datamodules.shards callbacks.protocols",
        "adastate.config adastate.distributed datamodules datamodules.tools callbacks.checkpointing callbacks.previews",
        "adastate.cameras adastate.training adastate.plan adastate.launch adastate.parity callbacks.monitoring",
        "adastate.inference adastate.evaluation callbacks",
        "adastate.study adastate.live adastate.hub adastate.diffusers",
        "adastate.rehearsal",
        "adastate benchmarks",
    )
)
"""From the ground up: every part, a folder of files, may import parts on lower floors."""

HOUSE = ("adastate", "datamodules", "callbacks", "benchmarks")
LOOSE = {"__init__.py", "__main__.py", "api.py", "main.py", "types.py"}
LONGEST, LONGEST_TEST = 350, 450
MOST_ARGUMENTS = 20
COMMAND, ANCHOR = {"main", "parser"}, {"check", "describe", "update"}
FLAT_BLOCKS = {"StreamSpec"}
"""The dataclass that is the block `stream:` of a configuration as it is: what a user writes there is flat, and so are
the files of the compared systems."""


@cache
def files() -> dict[str, str]:
    """The source of every file of the house, by its path from the root."""
    return {
        str(path.relative_to(ROOT)): path.read_text() for part in HOUSE for path in sorted((ROOT / part).rglob("*.py"))
    }


def part_of(file: str) -> str:
    """The folder of a file; what a whole package reads is a part of its own."""
    path = Path(file)
    if file in ("adastate/types.py", "callbacks/protocols.py"):
        return ".".join(path.with_suffix("").parts)
    return ".".join(path.parent.parts[:2])


@cache
def parsed(source: str) -> tuple[ast.AST, ...]:
    """All nodes of a source; most tests here look at the same ones."""
    return tuple(ast.walk(ast.parse(source)))


@cache
def imported_names(source: str) -> tuple[tuple[str, ...], ...]:
    """What a source imports, wherever in it, by dotted names: of each the first that is a file is meant."""
    found: list[tuple[str, ...]] = []
    for node in parsed(source):
        if isinstance(node, ast.Import):
            found += [(alias.name,) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute here"
            found += [(f"{node.module}.{alias.name}", node.module or "") for alias in node.names]
    return tuple(found)


def imported(source: str, there: Collection[str]) -> Iterator[str]:
    """The files of ours, of those that are `there`, that a source imports."""
    for names in imported_names(source):
        paths = (name.replace(".", "/") + end for name in names for end in (".py", "/__init__.py"))
        yield from islice((path for path in paths if path in there), 1)


def arrows(sources: Mapping[str, str]) -> dict[str, set[str]]:
    return {file: set(imported(source, sources)) - {file} for file, source in sources.items()}


def wrong(sources: Mapping[str, str]) -> list[str]:
    """Imports that do not go down."""
    floor = {part: i for i, parts in enumerate(FLOORS) for part in parts}
    return [
        f"{file} on floor {floor[part_of(file)]} imports {other} on floor {floor[part_of(other)]}"
        for file, others in arrows(sources).items()
        for other in sorted(others)
        if part_of(file) != part_of(other) and floor[part_of(other)] >= floor[part_of(file)]
    ]


def circle(graph: Mapping[str, set[str]]) -> list[str]:
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


def test_every_part_has_a_floor() -> None:
    assert sorted({part_of(file) for file in files()}) == sorted(part for parts in FLOORS for part in parts)


def test_imports_go_down() -> None:
    assert wrong(files()) == []


def test_no_files_import_each_other_in_a_circle() -> None:
    assert circle(arrows(files())) == []


@pytest.mark.parametrize(
    ("file", "source"),
    [
        ("adastate/stream/cache.py", "from adastate.training.student import Student"),
        ("adastate/stream/cache.py", "from adastate.weights import save_weights"),
        ("adastate/models/wan/dit.py", "import adastate.stream.cache"),
        ("adastate/diffusion/flow.py", "def late():\n    from adastate.models.wan import DiT"),
        ("adastate/training/distill.py", "from adastate.inference.generate import main"),
        ("adastate/inference/generate.py", "from adastate.main import fit"),
        ("datamodules/worlds/flyover.py", "from adastate.models.wan import DiT"),
        ("callbacks/previews/rollouts.py", "from adastate.training import student"),
    ],
)
def test_a_wrong_import_is_seen(file: str, source: str) -> None:
    assert len(wrong(files() | {file: source})) == 1


def test_a_circle_within_a_folder_is_seen() -> None:
    back = files() | {"adastate/stream/positions.py": "from adastate.stream import cache"}
    assert {"adastate/stream/positions.py", "adastate/stream/cache.py"} <= set(circle(arrows(back)))


def test_nothing_lies_loose() -> None:
    assert {path.name for path in (ROOT / "adastate").glob("*.py")} == LOOSE


def test_no_file_is_too_long() -> None:
    long = {f: n for f, source in files().items() if (n := len(source.splitlines())) > LONGEST}
    tests = {str(p.relative_to(ROOT)): len(p.read_text().splitlines()) for p in (ROOT / "tests").rglob("*.py")}
    assert long | {f: n for f, n in tests.items() if n > LONGEST_TEST} == {}


def test_a_file_s_name_stands_for_one_thing() -> None:
    names = Counter(Path(file).name for file in files())
    assert [name for name, count in names.items() if count > 1 and name not in ("__init__.py", "cli.py")] == []


def test_a_class_s_name_stands_for_one_thing() -> None:
    names = Counter(
        node.name
        for source in files().values()
        for node in parsed(source)
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_")
    )
    assert [name for name, count in names.items() if count > 1] == []


def test_a_function_s_name_stands_for_one_thing() -> None:
    """Private functions are their file's own; what a command or an anchor has to define it has under one name."""
    names = Counter(
        node.name
        for file, source in files().items()
        for node in ast.parse(source).body
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and not node.name.startswith("_")
        if node.name not in COMMAND | (ANCHOR if "/anchors/" in file else set())
    )
    assert [name for name, count in names.items() if count > 1] == []


def arguments_of_constructors(sources: Iterable[str]) -> dict[str, int]:
    """How many arguments each class is made with: those of its constructor, or its fields and those of its bases."""
    found, fields, bases = dict[str, int](), dict[str, set[str]](), dict[str, list[str]]()
    for node in (node for source in sources for node in parsed(source) if isinstance(node, ast.ClassDef)):
        bases[node.name] = [base.id for base in node.bases if isinstance(base, ast.Name)]
        for part in node.body:
            if isinstance(part, ast.FunctionDef) and part.name == "__init__":
                given = part.args
                found[node.name] = len(given.posonlyargs) + len(given.args) + len(given.kwonlyargs) - 1
        if "NamedTuple" in bases[node.name] or any("dataclass" in ast.unparse(d) for d in node.decorator_list):
            told = (part for part in node.body if isinstance(part, ast.AnnAssign))
            fields[node.name] = {ast.unparse(part.target) for part in told if "ClassVar" not in ast.unparse(part)}
    for name in fields:
        every, left = set[str](), [name]
        while left:
            every |= fields.get(left[-1], set())
            left += bases.get(left.pop(), [])
        found[name] = len(every)
    return found


def test_no_constructor_has_too_many_arguments() -> None:
    """What belongs together is a block of its own, see adastate/optim/settings.py."""
    counts = arguments_of_constructors(files().values())
    assert {name for name, count in counts.items() if count > MOST_ARGUMENTS} == FLAT_BLOCKS
    plain = "class A:\n    def __init__(self, a: int, *, b: int = 0, **others: int) -> None: ..."
    block = "@dataclass(frozen=True)\nclass B:\n    a: int\n    b: ClassVar[int] = 0"
    derived = "@dataclass(frozen=True)\nclass C(B):\n    c: int\nclass D(NamedTuple):\n    a: int"
    assert arguments_of_constructors([plain, block, derived]) == {"A": 2, "B": 1, "C": 2, "D": 1}


def show() -> None:
    sources = files()
    graph, lines = arrows(sources), {file: len(source.splitlines()) for file, source in sources.items()}
    between = defaultdict(set)
    for file, others in graph.items():
        between[part_of(file)] |= {part_of(other) for other in others} - {part_of(file)}
    for i, parts in reversed(list(enumerate(FLOORS, 1))):
        for part in sorted(parts):
            own = [file for file in sources if part_of(file) == part]
            print(f"floor {i:2}  {part:24} {len(own):3} files {sum(lines[f] for f in own):6} lines", end="  ")
            print("->", ", ".join(sorted(between[part])) or "nothing of ours")
    print(f"{len(between)} parts, {sum(map(len, between.values()))} arrows; {len(wrong(sources))} go up or sideways")


if __name__ == "__main__":
    show()
