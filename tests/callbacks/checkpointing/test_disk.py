"""A disk that is full for one rank of two, while they save: told in one sentence, and the run goes on on both."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest

from adastate.runtime import atomic_folder
from callbacks.checkpointing.checkpoints import LOG
from tests.support import kills
from tests.support.kills import Plan

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="runs are forked")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("strategy", "rank"), [("ddp", 0), ("zero2", 0), ("zero2", 1), ("zero3", 1), ("fsdp2", 0), ("fsdp2", 1)]
)
def test_a_full_disk_of_one_rank_costs_that_checkpoint_alone(tmp_path: Path, strategy: str, rank: int) -> None:
    if strategy.startswith("zero"):
        pytest.importorskip("deepspeed")
    plan = Plan(strategy, 2, iterations=4, full=rank)
    kills.straight(plan, tmp_path / "run")
    told = [json.loads(line) for line in (tmp_path / "run" / LOG).read_text().splitlines()]
    assert [(e["event"], e["iteration"]) for e in told] == [("saved", 1), ("saved", 2), ("not saved", 3), ("saved", 4)]
    (sentence,) = [e["error"] for e in told if e["event"] == "not saved"]
    assert sentence.endswith("GB free); make room") and "\n" not in sentence
    root = tmp_path / "run" / "checkpoints"
    assert [p.name for p in root.iterdir() if p.name.startswith(".")] == []
    assert [atomic_folder.verify(p)["iteration"] for p in atomic_folder.folders(root)] == [2, 4]
    # and what was saved next is whole: a run that goes on from it ends as one with room enough
    longer = replace(plan, iterations=5, full=-1)
    expected, _ = kills.straight(longer, tmp_path / "roomy")
    found, _ = kills.straight(longer, tmp_path / "run")
    assert found == expected
