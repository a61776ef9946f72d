"""Intervals over seeds: quantiles as tables have them, and a null that is excluded as often as it is said."""

from __future__ import annotations

import math

import pytest
import torch

from adastate.metrics import bootstrap, chance_of, seed_interval, student_cdf, student_quantile

STUDIES, ROLLOUTS = 3000, 32


def studies(seeds: int, between: float = 1.0, within: float = 2.0) -> torch.Tensor:
    """Paired differences `[studies, seeds, rollouts]` whose mean is 0: seeds differ, and rollouts of each do."""
    g = torch.Generator().manual_seed(seeds)
    own = between * torch.randn(STUDIES, seeds, 1, generator=g)
    return own + within * torch.randn(STUDIES, seeds, ROLLOUTS, generator=g)


@pytest.mark.parametrize("seeds", [3, 8])
def test_a_null_is_excluded_in_one_case_of_twenty(seeds: int) -> None:
    intervals = [seed_interval(means) for means in studies(seeds).mean(-1)]
    excluded = sum(i.low > 0 or i.high < 0 for i in intervals) / STUDIES
    assert 0.03 < excluded < 0.07, excluded


def test_the_bootstrap_over_three_seeds_excludes_it_far_more_often() -> None:
    intervals = [bootstrap(table, draws=100) for table in studies(3)[:300]]
    assert sum(i.low > 0 or i.high < 0 for i in intervals) / 300 > 0.15


def test_corrected_for_their_number_all_intervals_hold_together() -> None:
    """Five tests a study: at least one null is excluded in at most 7% of the studies, not in every fourth."""
    means = studies(8).mean(-1).view(-1, 5, 8)[:500]

    def any_excluded(tests: int) -> float:
        found = [[seed_interval(m, tests=tests) for m in study] for study in means]
        return sum(any(i.low > 0 or i.high < 0 for i in study) for study in found) / len(found)

    assert any_excluded(5) < 0.07 < 0.15 < any_excluded(1)


@pytest.mark.parametrize(
    ("freedom", "probability", "told"),
    [(1, 0.975, 12.706), (2, 0.975, 4.303), (7, 0.975, 2.365), (7, 0.995, 3.499), (30, 0.975, 2.042), (4, 0.5, 0)],
)
def test_quantiles_are_those_of_the_tables(freedom: int, probability: float, told: float) -> None:
    assert student_quantile(probability, freedom) == pytest.approx(told, abs=1e-3)
    assert student_cdf(student_quantile(probability, freedom), freedom) == pytest.approx(probability)


def test_one_seed_has_a_value_and_no_interval() -> None:
    one = seed_interval(torch.tensor([0.4, math.nan]))
    assert one.value == pytest.approx(0.4) and math.isnan(one.low) and math.isnan(chance_of(torch.tensor([0.4])))
    assert math.isnan(seed_interval(torch.tensor([math.nan])).value)
    with pytest.raises(ValueError, match="at least 1"):
        student_quantile(0.975, 0)


def test_p_values_agree_with_the_intervals() -> None:
    means = torch.tensor([0.3, 0.5, 0.1, 0.4, 0.2, 0.6, 0.3, 0.2])
    edge = seed_interval(means).low
    assert chance_of(means, edge) == pytest.approx(0.05, abs=1e-6)
    assert chance_of(torch.tensor([0.2, 0.2])) == 0 and chance_of(torch.tensor([0.0, 0.0])) == 1
