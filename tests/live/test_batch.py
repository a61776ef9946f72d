"""Sessions of any age share their passes where time is relative, and each is as if it were alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from adastate.live.batch import SessionBatch
from adastate.live.model import LiveModel
from adastate.live.session import Session
from adastate.live.step import Step
from tests.live.conftest import EVERY
from tests.live.test_session import play
from tests.support.cases import thinned

Make = Callable[..., Session]

RELATIVE = (None, "adastate_s3_w9", "longlive_slot")


def near(a: Step, b: Step) -> bool:
    """Equal but for the rounding of a last bit."""
    pairs = [(a.video, b.video)] + ([(a.state, b.state)] if a.state is not None and b.state is not None else [])
    return a.chunk == b.chunk and all(int((x.int() - y.int()).abs().max()) <= 1 for x, y in pairs)


def aged(make: Make, ages: list[int], **options: Any) -> list[Session]:
    made = [make(seed=seed, **options) for seed in range(len(ages))]
    for one, age in zip(made, ages, strict=True):
        play(one, age)
    return made


@pytest.mark.parametrize("system", EVERY)
def test_together_is_as_alone(session: Make, system: str | None) -> None:
    ages = [0, 2, 9, 9, 21]
    alone, together = aged(session, ages, system=system), aged(session, ages, system=system)
    batch = SessionBatch()
    for number in range(6):
        for some in (alone, together):
            some[0].prompt(("snow", "lava")[number % 2])
            some[3].act("as"[number % 2])
            if number == 4:
                some[2].prompt("north", kind=None if system == "rolling_forcing" else "keep", anchor="keep")
        steps = batch.step(together)
        assert all(near(one.step(), step) for one, step in zip(alone, steps, strict=True))  # type: ignore[arg-type]
        assert all(isinstance(step, Step) and torch.is_tensor(step.video) for step in steps)


@pytest.mark.parametrize("system", thinned(RELATIVE, every=3))
def test_with_relative_time_all_ages_are_one_batch(session: Make, system: str | None) -> None:
    batch, ages = SessionBatch(), [21, 34, 60, 27]
    made = aged(session, ages, system=system)
    for _ in range(2):
        batch.step(made)
        assert set(batch.rows) == {4}, "each pass is one for all of them"


def test_with_absolute_time_one_age_alone(session: Make) -> None:
    batch = SessionBatch()
    made = aged(session, [12, 12, 13], system="self_forcing")
    batch.step(made)
    assert sorted(set(batch.rows)) == [1, 2]


def test_joining_and_leaving_change_nothing_for_the_others(session: Make) -> None:
    stays, alone = session(), session()
    visitors = aged(session, [3, 8, 20])
    for number in range(9):
        steps = SessionBatch().step([stays, *visitors[: number % 4]])
        assert near(steps[0], alone.step())  # type: ignore[arg-type]


def test_what_one_raises_harms_no_other(session: Make, monkeypatch: Any) -> None:
    alone, together = aged(session, [6, 6, 6]), aged(session, [6, 6, 6])
    together[1]._state.cache.window = None
    together[1]._state.unwritten = (torch.zeros(1, 1, 1, 1, 1), 0)
    before = together[1]._state
    steps = SessionBatch().step(together)
    assert isinstance(steps[1], Exception) and together[1]._state is not before
    for number in (0, 2):
        assert near(alone[number].step(), steps[number])  # type: ignore[arg-type]


def test_sessions_of_several_models_and_systems_in_one_call(session: Make, model: LiveModel) -> None:
    made = [session(system=name) for name in (None, "longlive", "causvid", "rolling_forcing", None)]
    alone = [session(system=name) for name in (None, "longlive", "causvid", "rolling_forcing", None)]
    for _ in range(6):
        assert all(near(a, b.step()) for a, b in zip(SessionBatch().step(made), alone, strict=True))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="a session is given twice"):
        SessionBatch().step([made[0], made[0]])


def test_attention_of_each(session: Make) -> None:
    alone, together = aged(session, [7, 9, 11]), aged(session, [7, 9, 11])
    for some in (alone, together):
        some[1].measure_attention = some[2].measure_attention = True
    batch = SessionBatch()
    steps = batch.step(together)
    assert set(batch.rows) == {3}, "what is measured is in the others' passes"
    for one, step in zip(alone, steps, strict=True):
        assert isinstance(step, Step) and step.attention == pytest.approx(one.step().attention, abs=1e-4)
        assert sum(step.attention.values()) == pytest.approx(1 if one.measure_attention else 0, abs=1e-4)
    assert not steps[0].attention and steps[1].attention != steps[2].attention  # type: ignore[union-attr]
