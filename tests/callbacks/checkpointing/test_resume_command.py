"""Killed with SIGKILL at random moments, saves included, a run ends as if it had not been. `make faults` does more."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.support import kills
from tests.support.kills import Plan
from tests.support.small_run import make_shards

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="runs are forked")

FEW = {
    "one process, shards, 2 workers": (Plan(data="shards", workers=2), 1),
}
MORE = {
    "ZeRO-2, two processes": (Plan("zero2", 2, iterations=4), 1),
    "one process, prompts": (Plan(), 2),
    "two processes, prompts": (Plan("ddp", 2), 2),
    "FSDP2, two processes": (Plan("fsdp2", 2, iterations=4), 1),
    "one process, prompts, killed often": (Plan(), 8),
    "one process, prompts, 2 workers": (Plan(workers=2), 2),
    "one process, streams carried on": (Plan(long="streaming"), 3),
    "two processes, streams carried on": (Plan("ddp", 2, long="streaming"), 2),
    "two processes, prompts, killed often": (Plan("ddp", 2), 6),
    "two processes, shards": (Plan("ddp", 2, data="shards"), 2),
    "ZeRO-3, two processes, shards": (Plan("zero3", 2, iterations=4, data="shards"), 1),
    "the teacher, shards": (Plan(stage="teacher", data="shards"), 2),
}
PLANS = [pytest.param(*plan, id=name) for name, plan in FEW.items()]
PLANS += [pytest.param(*plan, id=name, marks=pytest.mark.slow) for name, plan in MORE.items()]


@pytest.mark.parametrize(("plan", "deaths"), PLANS)
def test_killed_anywhere_it_ends_with_the_same_bits(tmp_path: Path, plan: Plan, deaths: int) -> None:
    if plan.strategy.startswith("zero"):
        pytest.importorskip("deepspeed")
    if plan.data == "shards":
        make_shards(tmp_path)
    expected, seconds = kills.straight(plan, tmp_path / "straight")
    found, died = kills.killed(plan, tmp_path / "killed", deaths, seconds, seed=1)
    assert died > 0
    assert found == expected
    assert kills.samples(plan, tmp_path / "killed") == kills.samples(plan, tmp_path / "straight")
