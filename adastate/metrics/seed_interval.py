"""Uncertainty of a mean over training seeds: Student's t over the means of the seeds.

Each seed has its own initialisation, distillation, prompts and noise, so the means of seeds are independent draws, and
an interval over them covers everything that differs between seeds. The bootstrap of `uncertainty` is for the rollouts
of one seed: over three seeds its 95% interval excludes a true null in 28% of the cases.
"""

from __future__ import annotations

import math
from functools import lru_cache

from jaxtyping import Float
from torch import Tensor

from adastate.metrics.uncertainty import Interval


def seed_interval(means: Float[Tensor, " S"], level: float = 0.95, tests: int = 1) -> Interval:
    """Mean of the seeds with its t-interval; unbounded if fewer than two are known.

    Args:
        means: one number per seed; nan if missing.
        tests: number of intervals that are to hold jointly with probability `level` (Bonferroni).
    """
    kept = means[~means.isnan()].double()
    count = len(kept)
    if count < 2:
        return Interval(float(kept.mean()) if count else math.nan, math.nan, math.nan)
    value = float(kept.mean())
    half = student_quantile(1 - (1 - level) / (2 * tests), count - 1) * float(kept.std()) / math.sqrt(count)
    return Interval(value, value - half, value + half)


def chance_of(means: Float[Tensor, " S"], null: float = 0.0) -> float:
    """Two-sided p value of the t-test that the mean is `null`; nan if fewer than two seeds are known."""
    kept = means[~means.isnan()].double()
    if len(kept) < 2:
        return math.nan
    error = float(kept.std()) / math.sqrt(len(kept))
    if not error:
        return float(float(kept.mean()) == null)
    return 2 * (1 - student_cdf(abs(float(kept.mean()) - null) / error, len(kept) - 1))


def student_cdf(t: float, freedom: int) -> float:
    """P(T <= t) for t >= 0 and integer degrees of freedom (Abramowitz and Stegun 1964, 26.7.3 and 26.7.4)."""
    angle = math.atan(t / math.sqrt(freedom))
    cosine, total = math.cos(angle) ** 2, 0.0
    if freedom % 2:
        term = math.cos(angle)
        for k in range(3, freedom + 1, 2):
            total += term
            term *= cosine * (k - 1) / k
        inside = 2 / math.pi * (angle + math.sin(angle) * total)
    else:
        term = 1.0
        for k in range(2, freedom + 1, 2):
            total += term
            term *= cosine * (k - 1) / k
        inside = math.sin(angle) * total
    return (1 + inside) / 2


@lru_cache(maxsize=256)
def student_quantile(probability: float, freedom: int) -> float:
    """The t with P(T <= t) = `probability`, which must be at least one half."""
    if freedom < 1 or not 0.5 <= probability < 1:
        raise ValueError(f"probability {probability}, {freedom} degrees of freedom: give 0.5 to 1, and at least 1")
    low, high = 0.0, 1.0
    while student_cdf(high, freedom) < probability:
        high *= 2
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if student_cdf(middle, freedom) < probability else (low, middle)
    return (low + high) / 2
