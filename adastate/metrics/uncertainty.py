"""Uncertainty of a mean: bootstrap over seeds and prompts together (percentile intervals, Efron 1979)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Float64
from torch import Tensor


@dataclass(frozen=True)
class Interval:
    """A value and the percentile interval of its resamples."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"


@dataclass(frozen=True)
class Resamples:
    """How often each seed and each prompt is drawn in each resample.

    Using the same resamples for two systems makes a paired comparison: seed s and prompt p of the one are compared with
    seed s and prompt p of the other. Seeds and prompts are drawn independently, as every seed is measured on every
    prompt.
    """

    seeds: Float64[Tensor, "draws seeds"]
    prompts: Float64[Tensor, "draws prompts"]

    @classmethod
    def draw(cls, seeds: int, prompts: int, draws: int = 1000, seed: int = 0) -> Resamples:
        g = torch.Generator().manual_seed(seed)

        def counts(n: int) -> Tensor:
            drawn = torch.randint(n, (draws, n), generator=g)
            return torch.zeros(draws, n, dtype=torch.float64).scatter_add_(1, drawn, torch.ones(draws, n).double())

        return cls(counts(seeds), counts(prompts))

    def means(self, values: Float[Tensor, "seeds prompts"]) -> Float64[Tensor, " draws"]:
        """Mean of `values` in every resample; nan values are left out."""
        known = ~values.isnan()
        total = torch.einsum("ds,sp,dp->d", self.seeds, values.nan_to_num().double(), self.prompts)
        count = torch.einsum("ds,sp,dp->d", self.seeds, known.double(), self.prompts)
        return total / count


def interval(value: float, resampled: Float[Tensor, " draws"], level: float = 0.95) -> Interval:
    """Percentiles of `resampled` around a value; nan draws are left out."""
    kept = resampled[~resampled.isnan()].double()
    if not len(kept):
        return Interval(value, float("nan"), float("nan"))
    tail = (1 - level) / 2
    low, high = torch.quantile(kept, torch.tensor([tail, 1 - tail], dtype=torch.float64)).tolist()
    return Interval(value, low, high)


def bootstrap(
    values: Float[Tensor, "seeds prompts"] | Float[Tensor, " prompts"],
    draws: int = 1000,
    seed: int = 0,
    level: float = 0.95,
) -> Interval:
    """Mean of `values`, with all seeds on the same prompts, and its interval. A single row is one seed.

    With few seeds the interval is about as wide as the spread of the seeds; with one it says nothing about seeds.
    """
    table = values[None] if values.dim() == 1 else values
    resamples = Resamples.draw(table.shape[0], table.shape[1], draws, seed)
    return interval(float(table.nanmean()), resamples.means(table), level)


def difference(
    a: Float[Tensor, " ..."], b: Float[Tensor, " ..."], draws: int = 1000, seed: int = 0, level: float = 0.95
) -> Interval:
    """Mean of a - b, paired by seed and prompt; both in a shape that `bootstrap` accepts."""
    if a.shape != b.shape:
        raise ValueError(f"paired values must have equal shapes, got {tuple(a.shape)} and {tuple(b.shape)}")
    return bootstrap(a - b, draws, seed, level)
