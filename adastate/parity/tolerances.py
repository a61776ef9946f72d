"""The result of a replay: one line per recorded quantity."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

LATENT = 2e-5
"""Largest absolute difference of latents and flows."""

LOSS = 1e-5
"""Relative difference of a loss."""

GRADIENT = 1e-4
"""Norm of the difference relative to the norm."""

TABLE = 1e-6
"""Largest difference of a table relative to its largest entry: a few times the rounding error of float32."""


@dataclass(frozen=True)
class Compared:
    """Comparison of one quantity with the reference's.

    Attributes:
        what: name of the output tensor, optionally followed by a blank and a remark; or `meta.KEY`.
        difference, tolerance: in the unit of its kind; it passes if the first does not exceed the second.
    """

    what: str
    difference: float
    tolerance: float

    @property
    def output(self) -> str:
        return self.what.split(" ")[0]

    @property
    def passed(self) -> bool:
        return self.difference <= self.tolerance  # not-a-number fails

    @property
    def share(self) -> float:
        """Fraction of the tolerance: comparable between quantities of different kinds."""
        if math.isnan(self.difference):
            return math.inf
        if not self.tolerance:
            return math.inf if self.difference else 0.0
        return self.difference / self.tolerance


def absolute(what: str, got: Tensor, expected: Tensor, tolerance: float = LATENT) -> Compared:
    """Largest absolute difference."""
    got, expected = _alike(what, got, expected)
    return Compared(what, (got - expected).abs().max().item(), tolerance)


def compare_largest(what: str, got: Tensor, expected: Tensor, tolerance: float = TABLE) -> Compared:
    """Largest difference, relative to the largest entry."""
    got, expected = _alike(what, got, expected)
    return Compared(what, ((got - expected).abs().max() / expected.abs().max().clamp(min=1e-30)).item(), tolerance)


def scalar(what: str, got: Tensor | float, expected: Tensor | float, tolerance: float = LOSS) -> Compared:
    """Relative difference of two numbers."""
    a, b = (float(v.detach() if isinstance(v, Tensor) else v) for v in (got, expected))
    return Compared(what, abs(a - b) / max(abs(b), 1e-30), tolerance)


def gradient(what: str, got: Tensor, expected: Tensor, tolerance: float = GRADIENT) -> Compared:
    """|got - expected| / |expected|."""
    got, expected = _alike(what, got, expected)
    return Compared(what, ((got - expected).norm() / expected.norm().clamp(min=1e-30)).item(), tolerance)


def norms(what: str, got: Mapping[str, Tensor], expected: Mapping[str, float]) -> Compared:
    """The worst relative difference of gradient norms by parameter."""
    missing = sorted(expected.keys() - got.keys())
    if missing:
        raise ValueError(f"{what} has {missing[0]!r}, for which the replay has no gradient")
    worst = max(expected, key=lambda k: scalar("", got[k].norm(), expected[k]).difference)
    return scalar(f"{what} of {worst}", got[worst].norm(), expected[worst], GRADIENT)


def _alike(what: str, got: Tensor, expected: Tensor) -> tuple[Tensor, Tensor]:
    if got.shape != expected.shape:
        raise ValueError(f"{what} is {tuple(got.shape)} here, but {tuple(expected.shape)} in the fixture")
    return got.detach().to(torch.float64), expected.to(torch.float64)
