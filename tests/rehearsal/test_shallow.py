"""What is linear in the layers of each network is drawn on exactly from few layers."""

from __future__ import annotations

import pytest

from adastate.rehearsal.shallow import at_depth, depth_trials, depths, drawn_on, drawn_on_peak, per_layer

RUN = {"model": {"student": {"size": {"layers": 30, "width": 8}}, "teacher": {"size": {"layers": 40, "width": 16}}}}


def cost(run: dict[int, int], student: float = 3.0, teacher: float = 7.0) -> float:
    return 5.0 + student * run[30] + teacher * run[40]


def test_depths_are_those_of_the_networks() -> None:
    assert depths(RUN) == [30, 40]
    assert depths(at_depth(RUN, {30: 2, 40: 3})) == [2, 3]
    assert depths(RUN) == [30, 40]  # as it was


@pytest.mark.parametrize(("student", "teacher"), [(3.0, 7.0), (0.0, 1.5), (2.0, 0.0)])
def test_a_quantity_is_drawn_on_to_every_depth(student: float, teacher: float) -> None:
    runs = depth_trials([30, 40])
    values = [cost(run, student, teacher) for run in runs]
    assert drawn_on(values, [30, 40], runs) == pytest.approx(cost({30: 30, 40: 40}, student, teacher))
    assert per_layer(values, runs) == max(student, teacher)


def test_networks_that_are_shallow_already_run_as_they_are() -> None:
    assert depth_trials([2]) == [{2: 2}]
    assert drawn_on([11.0], [2], depth_trials([2])) == 11.0


def test_a_peak_is_that_of_the_moment_that_grows_most() -> None:
    """With two layers the loss is the peak, with thirty the cache, which the layers fill."""
    found, runs = [30], [{30: 2}, {30: 3}]

    def trial(depth: int) -> tuple[float, dict[str, float]]:
        moments = {"loss": 100.0, "cache": 20.0 * depth, f"flat, {depth} layers": 1e6}
        return max(100.0, 20.0 * depth), moments

    assert drawn_on_peak([trial(2), trial(3)], found, runs) == 600.0
