"""Constants that no caption tells are read back from pictures."""

from __future__ import annotations

import pytest
import torch

from adastate.metrics import from_beginning, lens_constants

PATTERN = torch.tensor([[1.0, -1.0], [-1.0, 1.0]]).repeat(8, 8)
HORIZON = 6


def pictures(exposure: float, contrast: float, grain: float) -> torch.Tensor:
    """Two stretches of a red ground with a bright spot that comes and goes, and grey fog half of the time."""
    ground = torch.tensor([0.3, -0.4, -0.4]).view(1, 1, 3, 1, 1).expand(2, 2 * HORIZON, 3, 16, 16).clone()
    ground[:, ::3, :, 4:8, 4:8] = 0.9
    ground[:, 3:6] = 0.2
    return exposure + contrast * ground + grain * PATTERN


def test_each_constant_is_seen_by_its_own_measure_alone() -> None:
    base = lens_constants(pictures(0, 1, 0), HORIZON, PATTERN)
    assert all(v.shape == (2, 2) for v in base.values()) and base["grain"].abs().max() < 1e-6
    brighter = lens_constants(pictures(0.1, 1, 0), HORIZON, PATTERN)
    grainy = lens_constants(pictures(0, 1, 0.05), HORIZON, PATTERN)
    flat = lens_constants(pictures(0, 0.5, 0), HORIZON, PATTERN)
    # the first stretch has fog, which is neither darker nor more colourful than the ground
    assert torch.allclose(brighter["exposure"] - base["exposure"], torch.full((2, 2), 0.1), atol=1e-5)
    assert torch.allclose(brighter["contrast_constant"], base["contrast_constant"], atol=1e-5)
    assert torch.allclose(flat["contrast_constant"], base["contrast_constant"] / 2, atol=1e-5)
    assert torch.allclose(grainy["grain"], torch.full((2, 2), 0.05), atol=1e-5)
    assert torch.allclose(grainy["exposure"], base["exposure"], atol=1e-5)


def test_drift_is_counted_from_the_beginning_whichever_way_it_goes() -> None:
    found = from_beginning(torch.tensor([[1.0, 1.5, 0.25]]))
    assert found[0, 0].isnan() and found[0, 1:].tolist() == [0.5, 0.75]
    with pytest.raises(ValueError, match="cut the video"):
        lens_constants(pictures(0, 1, 0), 5, PATTERN)
