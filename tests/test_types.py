"""What crosses file borders, and the shapes that annotations promise."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import jaxtyping
import pytest
import torch
from jaxtyping import TypeCheckError

from adastate.diffusion import flow
from adastate.metrics import contrast, over_time
from adastate.models.activation import gelu
from adastate.types import Batch, Chunk
from tests.support.shapes import ANNOTATED

ROOT = Path(__file__).parents[1]
LATENTS = torch.zeros(2, 3, 4, 5, 6)

WRONG: dict[str, Callable[[], object]] = {
    "too few axes": lambda: flow.add_noise(LATENTS[0], LATENTS[0], torch.zeros(2), 5.0),
    "sizes that differ": lambda: flow.add_noise(LATENTS, LATENTS[:, :2], torch.zeros(2), 5.0),
    "timesteps of other frames": lambda: flow.to_x0(LATENTS, LATENTS, torch.zeros(2, 4), 5.0),
    "latents for video": lambda: contrast(LATENTS),
    "integers for floats": lambda: gelu(torch.arange(3)),
    "a batch of two sizes": lambda: Batch(torch.arange(3), ["a", "b", "c"], latents=LATENTS),
    "a state of other pixels": lambda: Chunk(0, 0, LATENTS, LATENTS[..., 1:], 1),
}


def test_a_batch_is_moved_but_for_what_the_host_reads_and_pinned_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    batch = Batch(
        torch.arange(2),
        ["a", "b"],
        latents=torch.ones(2, 1, 1, 1, 1),
        levels=torch.ones(3),
        actions=torch.ones(2, 1, 3),
    )
    moved = batch.to("meta")
    assert moved.latents is not None and moved.latents.is_meta and moved.video is None
    assert all(getattr(moved, name) is getattr(batch, name) for name in ("index", "levels", "actions"))
    batch = Batch(torch.arange(2), ["a", "b"], latents=torch.ones(2, 1, 1, 1, 1))
    pinned: list[int] = []
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda x: pinned.append(x.numel()) or x)
    again = batch.pin_memory()
    assert sorted(pinned) == [2, 2] and again.prompts == ["a", "b"]


@pytest.mark.parametrize("wrong", WRONG.values(), ids=WRONG)
def test_shapes_are_checked_while_tests_run(wrong: Callable[[], object]) -> None:
    with pytest.raises(TypeCheckError):
        wrong()
    with pytest.raises(TypeCheckError):  # every time, though a call that was right is checked once
        wrong()


def test_what_comes_back_is_checked_too() -> None:
    with pytest.raises(TypeCheckError, match="return value"):
        over_time(lambda clip: torch.zeros(len(clip) + 1), torch.zeros(2, 4, 3, 5, 6), 2)


def test_nothing_is_checked_outside_the_tests() -> None:
    script = (
        "import sys, torch, adastate.metrics\n"
        "adastate.metrics.contrast(torch.zeros(2, 3, 4, 5, 6))\n"
        "assert 'beartype' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=True)


@pytest.mark.parametrize("module", ANNOTATED)
def test_public_functions_and_fields_name_the_axes_of_every_tensor(module: str) -> None:
    """Those of the modules in which shapes are checked."""
    path = ROOT / module.replace(".", "/")
    for file in path.glob("*.py") if path.is_dir() else [path.with_suffix(".py")]:
        tree = ast.parse(file.read_text())
        assert [f"{file.name}:{line}" for line in nameless(tree)] == []


def test_a_tensor_without_axes_is_found() -> None:
    source = """
def right(x: Float[Tensor, " B"], y: Tensor | None) -> Tensor: ...
def _private(x: Tensor) -> Tensor: ...
class C:
    field: list[Tensor]
    def method(self) -> dict[str, Int[Tensor, " B"]]: ...
"""
    assert nameless(ast.parse(source)) == [2, 2, 5]


class Bare(ast.NodeVisitor):
    """Lines of annotations in which a tensor stands without its axes."""

    def __init__(self) -> None:
        self.lines: list[int] = []

    def visit_Subscript(self, node: ast.Subscript) -> None:
        if not hasattr(jaxtyping, getattr(node.value, "id", "")):
            self.generic_visit(node)

    def visit_Name(self, node: ast.Name) -> None:
        if node.id == "Tensor":
            self.lines.append(node.lineno)


def nameless(tree: ast.Module | ast.ClassDef) -> list[int]:
    """Lines of public functions, methods and fields in which a tensor stands without its axes."""
    found = Bare()
    for node in tree.body:
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            found.lines += nameless(node)
        elif isinstance(node, ast.AnnAssign):
            found.visit(node.annotation)
        elif isinstance(node, ast.FunctionDef) and (not node.name.startswith("_") or node.name.endswith("__")):
            for annotation in (*(a.annotation for a in node.args.args + node.args.kwonlyargs), node.returns):
                if annotation is not None:
                    found.visit(annotation)
    return found.lines
