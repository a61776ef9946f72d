"""Teacher and initialisation, one network each and Lightning's own optimisation, under ZeRO and FSDP2."""

from __future__ import annotations

import os
import time
from itertools import product
from pathlib import Path

import pytest
import torch

from adastate.runtime import atomic_folder
from adastate.weights import open_weights
from tests.support import kills
from tests.support.kills import Plan
from tests.support.small_run import make_shards

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="runs are forked")
EVERY = product(("zero1", "zero2", "zero3", "fsdp2"), ("teacher", "init"))


@pytest.mark.slow
@pytest.mark.parametrize(("strategy", "stage"), EVERY)
def test_the_weights_are_those_of_ddp_and_a_killed_run_ends_with_the_same_bits(
    tmp_path: Path, strategy: str, stage: str
) -> None:
    if strategy.startswith("zero"):
        pytest.importorskip("deepspeed")
    make_shards(tmp_path)
    plan = Plan(strategy, 2, stage=stage, data="shards", iterations=5)
    expected, _ = kills.straight(plan, tmp_path / "straight")
    kills.straight(Plan("ddp", 2, stage=stage, data="shards", iterations=5), tmp_path / "ddp")
    folders = [atomic_folder.folders(tmp_path / name / "checkpoints")[-1] for name in ("straight", "ddp")]
    for key in ("ema.net", "net"):  # the average, and what learns
        mine, theirs = (open_weights(folder, key=_key(folder, key)) for folder in folders)
        assert mine.entries.keys() == theirs.entries.keys()
        for name, entry in theirs.entries.items():
            # Adam's first steps make a sign of a gradient near zero, so a few weights may differ by a step
            assert torch.allclose(mine.entries[name].read(), entry.read(), atol=1e-4), name
    children = kills.launch(plan, tmp_path / "killed")
    while not (tmp_path / "killed/checkpoints/00000002").is_dir():
        time.sleep(0.01)
    kills.kill(children)
    found, _ = kills.straight(plan, tmp_path / "killed")
    assert found == expected


def _key(folder: Path, key: str) -> str:
    """A student in pieces is named as in a distillation."""
    pieces = (folder / "state.ckpt").is_dir() and any((folder / "state.ckpt").glob("student-*.pt"))
    return f"student.{key}" if pieces else key
