"""Landmarks after a look away: perfect memory, none at all, and one that keeps what it saw last."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from adastate.metrics.flight_landmarks import FOUND, Spotted
from adastate.metrics.flight_return import HALF_VIEW, gone_on, seen_again


def marks(bearing: Tensor, colour: int = 1, score: float = 30.0) -> Spotted:
    like = torch.ones_like(bearing)
    return Spotted(score * like, bearing, 20 * like, (colour * like).long())


TRUE = marks(torch.tensor([[0.1, 0.2, 0.3], [-0.4, -0.3, -0.2]]))


def test_perfect_memory_has_no_error() -> None:
    again = seen_again(TRUE, TRUE)
    assert again.found.tolist() == [1, 1] and again.bearing.tolist() == [0, 0] and again.colour.tolist() == [0, 0]
    assert gone_on(TRUE, TRUE, torch.zeros(2, 3)).tolist() == [1, 1]


def test_no_memory_is_half_a_view_off_and_wrong_in_colour() -> None:
    again = seen_again(replace(TRUE, score=torch.zeros(2, 3)), TRUE)
    assert again.found.tolist() == [0, 0] and again.colour.tolist() == [1, 1]
    assert torch.allclose(again.bearing, torch.tensor(HALF_VIEW)) and math.degrees(HALF_VIEW) == pytest.approx(
        35, abs=0.1
    )
    assert gone_on(replace(TRUE, score=torch.zeros(2, 3)), TRUE, torch.zeros(2, 3)).isnan().all()


def test_one_that_stands_where_it_was_is_off_by_the_way_of_the_landmark() -> None:
    kept = torch.tensor([[0.0] * 3, [-0.5] * 3])
    again = seen_again(marks(kept), TRUE)
    assert torch.allclose(again.bearing, torch.tensor([0.2, 0.2])) and again.colour.tolist() == [0, 0]
    assert torch.allclose(gone_on(marks(kept), TRUE, kept), torch.zeros(2))
    half = (TRUE.bearing + kept) / 2
    assert torch.allclose(gone_on(marks(half), TRUE, kept), torch.full((2,), 0.5))


def test_another_colour_is_wrong_and_what_is_right_in_place_stays_so() -> None:
    again = seen_again(replace(TRUE, colour=torch.tensor([[1, 2, 1], [1, 1, 1]])), TRUE)
    assert torch.allclose(again.colour, torch.tensor([1 / 3, 0])) and again.bearing.tolist() == [0, 0]


def test_no_error_is_larger_than_that_of_one_that_is_gone() -> None:
    assert seen_again(marks(TRUE.bearing + 2), TRUE).bearing.amax() <= HALF_VIEW + 1e-6


def test_pictures_without_a_true_landmark_count_in_nothing() -> None:
    hidden = replace(TRUE, score=torch.tensor([[30.0, 0.0, 0.0], [FOUND - 1, 0.0, 0.0]]))
    again = seen_again(marks(torch.tensor([[0.1, 9.0, 9.0], [9.0, 9.0, 9.0]])), hidden)
    assert again.bearing[0] == 0 and again.bearing[1].isnan() and again.found[1].isnan()


def test_of_one_that_has_hardly_gone_on_nothing_is_told() -> None:
    assert gone_on(TRUE, TRUE, TRUE.bearing - 0.01).isnan().all()
