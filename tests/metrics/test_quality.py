"""The distance from real pictures: zero for the same, growing with what is wrong, and the same on every machine."""

from __future__ import annotations

import pytest
import torch

from adastate import metrics
from adastate.metrics.quality import CONVOLVED, VERSION
from datamodules.worlds.flyover import flight, render_flyover
from tests.support.synthetic import slide


def test_features_are_fixed() -> None:
    """Numbers of two studies compare only if these stay: change VERSION with them, and note what it gives."""
    waves = torch.sin(0.37 * torch.arange(2 * 3 * 16 * 16)).reshape(1, 2, 3, 16, 16)
    found = metrics.features(waves)
    assert found.shape == (1, 1, CONVOLVED + 10)
    assert found[0, 0, [0, 7, 15, 16, -1]].tolist() == pytest.approx(KNOWN[VERSION], abs=1e-4)


KNOWN = {1: [0.07118, 0.4677, 0.2189, 0.00494, 0.82691]}
"""By version."""


def test_moments_add_up() -> None:
    x = torch.randn(5, 40, 3, generator=torch.Generator().manual_seed(0))
    together = metrics.moments(x.flatten(0, 1))
    pooled = metrics.Moments(metrics.moments(x).sums.sum(0))
    assert torch.allclose(together.sums, pooled.sums)
    assert torch.allclose(pooled.covariance, torch.cov(x.flatten(0, 1).T.double(), correction=0), atol=1e-9)
    twice = metrics.moments(x).sums[[0, 0, 4]].sum(0)
    assert torch.allclose(twice, metrics.moments(torch.cat([x[0], x[0], x[4]])).sums)


def test_the_distance_of_normal_distributions_is_the_formula_s() -> None:
    g = torch.Generator().manual_seed(0)
    a = torch.randn(200_000, 2, generator=g) * torch.tensor([1.0, 2.0])
    b = torch.randn(200_000, 2, generator=g) * torch.tensor([3.0, 1.0]) + torch.tensor([0.5, -1.0])
    found = metrics.frechet(metrics.moments(a), metrics.moments(b), torch.ones(2))
    assert found.item() == pytest.approx(0.25 + 1 + (1 - 3) ** 2 + (2 - 1) ** 2, rel=0.02)
    assert metrics.frechet(metrics.moments(a), metrics.moments(a)).item() == pytest.approx(0, abs=1e-6)
    assert metrics.frechet(
        metrics.moments(10 * a), metrics.moments(10 * b), 10 * torch.ones(2)
    ).item() == pytest.approx(found.item(), rel=1e-6)


def test_the_distance_grows_with_fading_noise_and_standing_still() -> None:
    flights = [flight(1, i) for i in range(128)]
    real = metrics.moments(metrics.features(render_flyover(flights, 6)).flatten(0, 1))
    other = render_flyover(flights, 6, first=60)
    g = torch.Generator().manual_seed(0)

    def distance(video: torch.Tensor) -> float:
        return float(metrics.frechet(metrics.moments(metrics.features(video).flatten(0, 1)), real))

    like = distance(other)
    faded = [distance(c * other) for c in (0.8, 0.6, 0.4)]
    noisy = [distance(other + s * torch.randn(other.shape, generator=g)) for s in (0.03, 0.1)]
    assert 2 * like < faded[0] < faded[1] < faded[2], (like, faded)
    assert 2 * like < noisy[0] < noisy[1], (like, noisy)
    assert distance(other[:, :1].expand(-1, 6, -1, -1, -1)) > 2 * like


def test_a_composite_is_one_for_the_real_and_falls_either_way() -> None:
    real = {"a": torch.tensor(2.0), "b": torch.tensor(0.5)}
    at = {"a": torch.tensor([2.0, 1, 4, 2, -1]), "b": torch.tensor([0.5, 0.5, 0.5, 0.25, 0.5])}
    expected = [1, 0.5**0.5, 0.5**0.5, 0.5**0.5, 0.1]
    assert metrics.composite(at, real).tolist() == pytest.approx(expected, abs=1e-4)


def test_contrast_decay_is_a_curve() -> None:
    fading = slide(1, 0, 24) * (0.9 ** (torch.arange(24) // 8)).reshape(1, 24, 1, 1, 1)
    curve = metrics.over_time(metrics.contrast, fading, 8)
    whole = metrics.over_time(metrics.contrast, slide(1, 0, 24), 8)
    assert (curve / whole)[0].tolist() == pytest.approx([1, 0.9, 0.81], abs=1e-4)
