"""Asked to stop in an iteration that has updated nothing yet, a run gives it up, and ends with the same bits."""

from __future__ import annotations

import json
import os
import time
from dataclasses import replace
from pathlib import Path

import pytest

from adastate.runtime import signals
from callbacks.checkpointing.checkpoints import LOG
from tests.support import kills
from tests.support.kills import Plan
from tests.support.small_run import make_shards

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="runs are forked")

# every second iteration updates the student first: of its two parts each is asked about twice, and once its step is.
PLACES = 5
ONE = Plan(iterations=4, parts=2, long="streaming", every=100)


def given_up(plan: Plan, folder: Path) -> list[bool]:
    """Runs to the end, however often it stops; whether each stop gave an iteration up."""
    while True:
        children = kills.launch(plan, folder)
        assert kills.wait(children, time.monotonic() + kills.LIMIT_S, folder, well=(0, signals.AGAIN))
        plan = replace(plan, ask=-1)
        if (folder / "done.0").is_file():
            lines = [json.loads(line) for line in (folder / LOG).read_text().splitlines()]
            return ["abandoned" in line["how"] for line in lines if line["event"] == "preempted"]


def check(folder: Path, plan: Plan, places: list[int]) -> list[bool]:
    """At these places, one run each; all end as the undisturbed one."""
    if plan.data == "shards":
        make_shards(folder)
    expected, _ = kills.straight(plan, folder / "straight")
    said = []
    for place in places:
        said += given_up(replace(plan, ask=place), folder / str(place))
        assert kills.result(plan, folder / str(place)) == expected, f"asked at place {place}"
        assert kills.samples(plan, folder / str(place)) == kills.samples(plan, folder / "straight")
    return said


@pytest.mark.slow
def test_an_iteration_is_given_up_as_long_as_nothing_is_updated(tmp_path: Path) -> None:
    """In the first iteration, and in the third, which begins at place 5 + 5 of the second; streams go back as well."""
    assert check(tmp_path, ONE, [2, 2 * PLACES + 1, 2 * PLACES + 4]) == [True] * 3


def test_what_has_been_updated_is_finished(tmp_path: Path) -> None:
    """After its step the student is ahead of the critic: the critic's passes are made."""
    assert check(tmp_path, replace(ONE, iterations=2), [PLACES]) == [False]


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["ddp", "zero2", "fsdp2"])
def test_all_ranks_give_up_the_same_iteration(tmp_path: Path, strategy: str) -> None:
    if strategy == "zero2":
        pytest.importorskip("deepspeed")
    plan = replace(ONE, strategy=strategy, world=2, long="" if strategy == "fsdp2" else ONE.long)
    assert check(tmp_path, plan, [3, 2 * PLACES + 2]) == [True] * 2


@pytest.mark.slow
def test_where_lightning_optimises_half_an_accumulation_is_given_up(tmp_path: Path) -> None:
    plan = Plan(stage="teacher", data="shards", iterations=4, parts=4, every=100)
    assert check(tmp_path, plan, [4 + 1]) == [True]
