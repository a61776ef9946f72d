"""The house: imports point from later parts to earlier ones, never back and never sideways."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FLOORS = (
    {"runtime", "types", "portions"},
    {"flow", "noise"},
    {"net", "stream", "losses", "metrics", "encoders", "media", "solvers", "pieces"},
    {"ema", "weights", "optim", "guard", "script", "vbench", "ranks", "lora", "frozen", "bound"},
    {"initialise", "networks"},
    {"teacher", "student", "critic", "codec"},
    {"samples", "rewards"},
    {"carried", "objective", "updates"},
    {"sampler"},
    {"conflicts", "global_batch"},
    {"distill"},
)
"""Parts of adastate, each of which may import what lies on lower floors. What is not named is the roof: commands and
their configuration, which may import one another."""

ROOF = len(FLOORS)
OURS = ("adastate", "datamodules", "callbacks")


def floor(part: str) -> int:
    return next((i for i, parts in enumerate(FLOORS) if part in parts), ROOF)


def imports(source: str) -> Iterator[str]:
    """Dotted names of ours that a file imports, wherever in it."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute here"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        yield from (name for name in names if name.split(".")[0] in OURS)


def wrong(file: Path, source: str) -> list[str]:
    """The imports that `file` (relative to the root) must not have."""
    package, part = file.parts[0], file.with_suffix("").parts[1]
    bad = []
    for name in imports(source):
        target, there = name.split(".")[0], name.split(".")[1]
        if name.startswith(("adastate.main", "adastate.zero")):
            allowed = file == Path("adastate/__main__.py") or part == there == "zero"
        elif package == target == "adastate":
            allowed = there == part or floor(there) < floor(part) or floor(part) == ROOF
        elif package == "adastate":
            allowed = floor(part) == ROOF
        elif target == "adastate":
            lower = {
                "datamodules": ("runtime", "types", "encoders", "media"),
                "callbacks": ("runtime", "types", "portions", "media", "metrics", "encoders", "signals"),
            }
            allowed = there in lower[package]
        else:
            allowed = package == target
        if not allowed:
            bad.append(f"{file} imports {name}")
    return bad


def test_imports_point_one_way() -> None:
    files = [f for package in OURS for f in sorted((ROOT / package).rglob("*.py"))]
    assert len(files) > 30
    assert [line for f in files for line in wrong(f.relative_to(ROOT), f.read_text())] == []


@pytest.mark.parametrize(
    ("file", "source"),
    [
        ("adastate/stream/cache.py", "from adastate.net import DiT"),
        ("adastate/net/dit.py", "from adastate.stream import StateCache"),
        ("adastate/net/dit.py", "import adastate.losses"),
        ("adastate/flow.py", "from adastate.net import DiT"),
        ("adastate/noise.py", "from adastate.ema import EMA"),
        ("adastate/student.py", "from adastate.teacher import Teacher"),
        ("adastate/student.py", "def late():\n    from adastate import distill"),
        ("adastate/distill.py", "from datamodules.world import render"),
        ("adastate/generate.py", "from adastate.main import fit"),
        ("adastate/distill.py", "from adastate import zero"),
        ("datamodules/world.py", "from adastate.net import DiT"),
        ("datamodules/world.py", "from callbacks import tags"),
        ("callbacks/rollouts.py", "from adastate.student import Student"),
        ("callbacks/rollouts.py", "from adastate.stream.cache import StateCache"),
    ],
)
def test_a_wrong_import_is_seen(file: str, source: str) -> None:
    assert len(wrong(Path(file), source)) == 1


def test_right_imports_are_let_through() -> None:
    for file, source in (
        ("adastate/stream/cache.py", "from adastate.stream.frames import Frames\nfrom adastate.types import Probe"),
        (
            "adastate/distill.py",
            "from adastate import flow, losses\nfrom adastate.teacher import Teacher\nimport torch",
        ),
        ("adastate/pipeline.py", "from datamodules.world import render\nfrom adastate.config import compose"),
        ("callbacks/preview.py", "from callbacks import tags\nfrom adastate.media import strip"),
    ):
        assert wrong(Path(file), source) == []
