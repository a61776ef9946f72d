"""What keeps an update from happening."""

from __future__ import annotations

import math

import pytest

from adastate.optim.spike_guard import SpikeGuard


def test_what_is_not_finite_is_bad_from_the_first_update_on() -> None:
    guard = SpikeGuard()
    assert guard.check({"loss": math.nan, "gradient norm": 1.0}) == "loss is nan"
    assert guard.check({"loss": 1.0, "gradient norm": math.inf}) == "gradient norm is inf"
    assert guard.check({"loss": 1.0, "gradient norm": 1.0}) == ""
    assert (guard.skipped, guard.in_a_row) == (2, 2)
    guard.reset()
    assert (guard.skipped, guard.in_a_row) == (2, 0)


def test_a_spike_is_ten_times_the_median_of_its_own_name() -> None:
    guard = SpikeGuard(least=5)
    for value in (1.0, 1.2, 0.9, 1.1):
        assert guard.check({"a": value}) == ""
    assert guard.check({"a": 50.0}) == "", "too little is known yet"
    assert guard.check({"a": 9.0}) == ""
    assert guard.check({"a": 12.0, "b": 1.0}) == "a is 12, 10 times the usual 1.15"
    assert guard.check({"a": 1.0, "b": 1000.0}) == "", "b is new"


def test_spikes_are_not_remembered_so_they_do_not_become_usual() -> None:
    guard = SpikeGuard(least=3, window=4)
    for _ in range(3):
        guard.check({"a": 1.0})
    for _ in range(20):
        assert guard.check({"a": 100.0})
    assert guard.exhausted and guard.skipped == 20
    assert guard.check({"a": 1.0}) == "" and guard.exhausted, "one good value is no good iteration"
    guard.reset()
    assert not guard.exhausted


def test_off() -> None:
    guard = SpikeGuard(spike=0, least=1)
    guard.check({"a": 1.0})
    assert guard.check({"a": 1e9}) == ""
    assert guard.check({"a": math.nan})
    with pytest.raises(ValueError, match=r"spike is 0\.5; it is a factor above 1"):
        SpikeGuard(spike=0.5)


def test_a_resumed_guard_judges_alike() -> None:
    one, other = SpikeGuard(least=3), SpikeGuard(least=3)
    for value in (1.0, 2.0, 1.5, 40.0):
        one.check({"a": value})
    other.load_state_dict(one.state_dict())
    assert other.state_dict() == one.state_dict()
    assert other.check({"a": 30.0}) == one.check({"a": 30.0}) != ""
