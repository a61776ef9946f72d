"""Curves as TensorBoard has them."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from torch.utils.tensorboard import SummaryWriter

from adastate.launch.tensorboard_reader import first_and_last_means, read_curves


def write(folder: Path, values: dict[int, float], tag: str = "init/loss", at: float | None = None) -> None:
    with SummaryWriter(str(folder)) as writer:
        for step, value in values.items():
            writer.add_scalar(tag, value, step, walltime=at)


def test_a_curve_that_was_gone_on_with_has_each_step_once(tmp_path: Path) -> None:
    now = time.time()
    write(tmp_path, {0: 1.0, 10: 2.0, 20: 3.0}, at=now)
    write(tmp_path, {20: 5.0, 30: 6.0}, at=now + 60)
    assert read_curves(tmp_path) == {"init/loss": [1.0, 2.0, 5.0, 6.0]}
    assert read_curves(tmp_path, since=now + 30) == {"init/loss": [5.0, 6.0]}
    assert read_curves(tmp_path, since=now + 90) == {} == read_curves(tmp_path / "none")


def test_only_losses_are_taken_unless_others_are_named(tmp_path: Path) -> None:
    write(tmp_path, {0: 1.0}, "student/score_gap")
    write(tmp_path, {0: 2.0}, "critic/loss")
    assert read_curves(tmp_path) == {"critic/loss": [2.0]}
    assert read_curves(tmp_path, ["student/score_gap"]) == {"student/score_gap": [1.0]}


@pytest.mark.parametrize(("count", "expected"), [(20, (0.5, 18.5)), (4, (0.0, 3.0)), (1, (0.0, 0.0))])
def test_ends_are_means_over_a_tenth_and_at_least_one_value(count: int, expected: tuple[float, float]) -> None:
    assert first_and_last_means([float(i) for i in range(count)]) == expected
