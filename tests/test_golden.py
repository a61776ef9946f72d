"""The golden script sees a difference of one bit, and nothing else."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests.support import golden


def records(folder: Path, name: str = "part.pt", **tensors: Tensor) -> Path:
    folder.mkdir(exist_ok=True)
    golden.write(folder / name, tensors)
    return folder


def weights() -> dict[str, Tensor]:
    return {"a": torch.arange(6.0).reshape(2, 3), "b": torch.tensor([1, 2], dtype=torch.bfloat16)}


def test_equal_bytes_are_equal(tmp_path: Path) -> None:
    assert golden.compare(records(tmp_path / "x", **weights()), records(tmp_path / "y", **weights())) == []


@pytest.mark.parametrize(
    ("other", "said"),
    [
        ({"a": torch.arange(6.0).reshape(2, 3).nextafter(torch.tensor(9.0))}, "a differs by up to"),
        ({"a": torch.arange(6.0).reshape(3, 2)}, r"a \(2, 3\) torch.float32 before, \(3, 2\)"),
        ({"a": torch.arange(6.0).reshape(2, 3).double()}, "torch.float32 before"),
        ({"c": torch.zeros(1)}, "c only after"),
    ],
    ids=["a bit", "shape", "dtype", "one more"],
)
def test_any_difference_is_named(tmp_path: Path, other: dict[str, Tensor], said: str) -> None:
    before = records(tmp_path / "before", **weights())
    (line,) = golden.compare(before, records(tmp_path / "after", **weights() | other))
    assert re.search(said, line)


def test_minus_zero_and_nan_are_compared_by_their_bytes(tmp_path: Path) -> None:
    before = records(tmp_path / "x", a=torch.tensor([0.0, float("nan")]))
    assert golden.compare(before, records(tmp_path / "y", a=torch.tensor([0.0, float("nan")]))) == []
    assert len(golden.compare(before, records(tmp_path / "z", a=torch.tensor([-0.0, float("nan")])))) == 1


def test_names_may_change_where_it_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before, after = (
        records(tmp_path / "x", "old.pt", a=torch.ones(1)),
        records(tmp_path / "y", "new.pt", b=torch.ones(1)),
    )
    assert len(golden.compare(before, after)) == 2
    monkeypatch.setattr(golden, "RENAMED", [(r"^old\.pt$", "new.pt"), (r"^a$", "b")])
    assert golden.compare(before, after) == []
