"""A lens that drifts is seen to drift, and one that does not is not."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from adastate.metrics import flight_drift
from adastate.metrics.flight_drift import SURE_OF_LENS, drift_rates, lens_drift
from datamodules.worlds.flight import lens
from tests.support.flight_clips import codec_like, flown


@pytest.fixture(scope="module")
def plain() -> Tensor:
    """Light in [0, 1]."""
    return (flown(7000, 16, 5, lens=False).video + 1) / 2


def test_the_pivot_is_the_world_s() -> None:
    assert flight_drift.PIVOT == lens.PIVOT


@pytest.mark.parametrize("worse", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["exact", "codec"])
@pytest.mark.parametrize(
    ("exposure", "contrast"),
    [(0.85, 0.8), *(pytest.param(*d, marks=pytest.mark.slow) for d in ((1.0, 1.0), (0.75, 1.0), (1.0, 1.3)))],
)
@pytest.mark.slow
def test_exposure_and_contrast_against_the_beginning(
    plain: Tensor, exposure: float, contrast: float, worse: bool
) -> None:
    e, c = (torch.linspace(1, last, plain.shape[1]).view(-1, 1, 1, 1) for last in (exposure, contrast))
    video = (plain * e * c + lens.PIVOT * (1 - c)).clamp(0, 1) * 2 - 1
    found = lens_drift(codec_like(video) if worse else video)
    sure = found.sure > SURE_OF_LENS
    assert sure.float().mean() > 0.7
    assert (found.exposure - e[:, 0, 0, 0]).abs()[sure].median() < 0.03
    assert (found.contrast - c[:, 0, 0, 0]).abs()[sure].median() < 0.06
    assert found.exposure[sure[:, -1], -1].median().item() == pytest.approx(exposure, abs=0.04)
    assert found.contrast[sure[:, -1], -1].median().item() == pytest.approx(contrast, abs=0.07)


def test_of_another_place_it_is_not_sure(plain: Tensor) -> None:
    mixed = torch.stack([plain[i % 16, i] for i in range(12)])[None] * 2 - 1
    assert (lens_drift(mixed).sure[:, 1:] < SURE_OF_LENS).float().mean() > 0.7
    still = plain[:2, :1].expand(-1, 8, -1, -1, -1) * 2 - 1
    found = lens_drift(still)
    assert (found.sure > 0.99).all() and (found.exposure - 1).abs().max() < 1e-3


@pytest.mark.slow
def test_drifts_by_the_second(plain: Tensor) -> None:
    still = drift_rates(plain * 2 - 1, 8)
    assert {name: abs(rate.nanmedian().item()) < 0.03 for name, rate in still.items()} == dict.fromkeys(still, True)
    dimmer = torch.linspace(0, -0.3, plain.shape[1]).exp().view(-1, 1, 1, 1)
    dimmed = drift_rates(plain * dimmer * 2 - 1, 8)
    rate = -0.3 / ((plain.shape[1] - 1) / 8)
    assert (dimmed["exposure"] - still["exposure"]).nanmedian().item() == pytest.approx(rate, abs=0.05)
    assert dimmed["exposure"].nanmedian().item() == pytest.approx(rate, abs=0.07)
    noise = torch.linspace(0, 0.03, plain.shape[1]).view(-1, 1, 1, 1) * torch.randn(plain.shape)
    grown = drift_rates((plain + noise).clamp(0, 1) * 2 - 1, 8)["grain"]
    assert grown.median() > 0.004 > 5 * still["grain"].abs().median()
    with pytest.raises(ValueError, match="6 or more"):
        drift_rates(plain[:1, :5], 8)
