"""Forgetting curves of streams whose forgetting is known."""

from __future__ import annotations

import pytest
import torch

from adastate.metrics import chunk_distance, forgetting_curve, lifetime


def drawn(seed: int) -> torch.Tensor:
    return torch.randn(6, 20, 4, 8, 8, generator=torch.Generator().manual_seed(seed))


def test_a_curve_falls_as_the_difference_does() -> None:
    first, other, third = drawn(1), drawn(2), drawn(3)
    keep = 0.5 ** torch.arange(20).view(1, -1, 1, 1, 1)
    fading = first + (other - first) * keep
    unrelated = chunk_distance(first, third, 2)
    curve = forgetting_curve(chunk_distance(first, fading, 2), unrelated)
    assert curve.shape == (10,) and curve[0] > 0.7
    assert (curve[1:] / curve[:-1]).mean().item() == pytest.approx(0.25, abs=0.02)
    assert lifetime(curve) == 1 and lifetime(curve, 0.01) == 4
    assert forgetting_curve(chunk_distance(first, first, 2), unrelated).max() == 0
    assert lifetime(forgetting_curve(unrelated, unrelated)) == 10


def test_streams_of_other_lengths_are_refused() -> None:
    with pytest.raises(ValueError, match="equal shapes of whole chunks of 3"):
        chunk_distance(drawn(1), drawn(2), 3)
