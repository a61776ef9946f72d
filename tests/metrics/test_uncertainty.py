"""Intervals: as wide as they should be, paired where pairs are given, and the same every time."""

from __future__ import annotations

import math

import pytest
import torch

from adastate import metrics


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_the_interval_of_one_seed_is_that_of_a_mean() -> None:
    values = 3 + 2 * normal(400)
    found = metrics.bootstrap(values, 4000)
    half = 1.96 * float(values.std()) / 20
    assert found.value == pytest.approx(float(values.mean()))
    assert found.high - found.value == pytest.approx(half, rel=0.1)
    assert found.value - found.low == pytest.approx(half, rel=0.1)
    assert metrics.bootstrap(values, 4000) == found


def test_it_covers_as_often_as_it_says() -> None:
    covered = 0
    for i in range(200):
        found = metrics.bootstrap(normal(40, seed=i), 300, seed=i)
        covered += found.low <= 0 <= found.high
    assert 0.88 < covered / 200 <= 1


def test_seeds_that_differ_widen_it() -> None:
    prompts = 0.1 * normal(3, 50)
    same, apart = metrics.bootstrap(prompts), metrics.bootstrap(prompts + torch.tensor([[-1.0], [0], [1]]))
    assert apart.high - apart.low > 10 * (same.high - same.low)
    assert apart.low < -0.6 and apart.high > 0.6


def test_a_difference_is_paired() -> None:
    common = 10 * normal(3, 50)
    found = metrics.difference(common + 0.5 + 0.1 * normal(3, 50, seed=1), common)
    assert 0.4 < found.low < found.value < found.high < 0.6
    with pytest.raises(ValueError, match="equal shapes"):
        metrics.difference(common, common[:2])


def test_what_is_not_known_is_left_out() -> None:
    values = torch.tensor([[1.0, math.nan, 3.0], [1.0, 2.0, math.nan]])
    assert metrics.bootstrap(values).value == pytest.approx(1.75)
    assert math.isnan(metrics.bootstrap(torch.full((2, 2), math.nan)).low)
