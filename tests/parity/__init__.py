"""The fixtures in tests/data (its README tells where they come from), and copies of them with something changed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor

from adastate.parity.fixture import Fixture, read_fixture
from adastate.parity.tolerances import Compared

__all__ = ["DATA", "Fixture", "failed", "load", "write"]

DATA = Path(__file__).parent.parent / "data"


def load(name: str) -> Fixture:
    return read_fixture(DATA / name)


def failed(found: list[Compared]) -> list[Compared]:
    assert found, "nothing was compared"
    return [c for c in found if not c.passed]


def write(
    f: Fixture,
    to: Path,
    meta: dict[str, Any] | None = None,
    inputs: dict[str, Tensor] | None = None,
    outputs: dict[str, Tensor] | None = None,
) -> Fixture:
    """A copy of `f` in the folder `to`: keys of meta.json added or changed, inputs added, outputs replaced if given."""
    weights = {
        role: {**entry, "file": str((f.folder / entry["file"]).resolve())}
        for role, entry in f.meta.get("weights", {}).items()
    }
    to.mkdir(parents=True, exist_ok=True)
    changed = {**f.meta, **({"weights": weights} if weights else {}), "inputs_file": "inputs.safetensors"}
    changed |= meta or {}
    (to / "meta.json").write_text(json.dumps({k: v for k, v in changed.items() if v != "gone"}))
    ours = {**f.inputs, **(inputs or {})}
    for name, tensors in (("inputs", ours), ("outputs", f.outputs if outputs is None else outputs)):
        save_file({k: v.contiguous().clone() for k, v in tensors.items()}, to / f"{name}.safetensors")
    return read_fixture(to)
