"""Killed with SIGKILL at random moments, saves included, a run ends as if it had not been. `make faults` does more."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests import kills
from tests.kills import Plan

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="runs are forked")

PLANS = [
    pytest.param(Plan(), 4, id="one process, prompts"),
    pytest.param(Plan(workers=2), 2, id="one process, prompts, 2 workers"),
    pytest.param(Plan(long="streaming"), 3, id="one process, streams carried on"),
    pytest.param(Plan("ddp", 2, long="streaming"), 2, id="two processes, streams carried on"),
    pytest.param(Plan("ddp", 2), 3, id="two processes, prompts"),
    pytest.param(Plan(data="shards", workers=2), 2, id="one process, shards, 2 workers"),
    pytest.param(Plan("ddp", 2, data="shards"), 2, id="two processes, shards"),
    pytest.param(Plan("zero2", 2, iterations=4), 1, id="ZeRO-2, two processes"),
    pytest.param(Plan("zero3", 2, iterations=4, data="shards"), 1, id="ZeRO-3, two processes, shards"),
    pytest.param(Plan("fsdp2", 2, iterations=4), 1, id="FSDP2, two processes"),
    pytest.param(Plan(stage="teacher", data="shards"), 2, id="the teacher, shards"),
]


@pytest.mark.parametrize(("plan", "deaths"), PLANS)
def test_killed_anywhere_it_ends_with_the_same_bits(tmp_path: Path, plan: Plan, deaths: int) -> None:
    if plan.strategy.startswith("zero"):
        pytest.importorskip("deepspeed")
    if plan.data == "shards":
        kills.make_shards(tmp_path)
    expected, seconds = kills.straight(plan, tmp_path / "straight")
    found, died = kills.killed(plan, tmp_path / "killed", deaths, seconds, seed=1)
    assert died > 0
    assert found == expected
    assert kills.samples(plan, tmp_path / "killed") == kills.samples(plan, tmp_path / "straight")
