"""Memory on made-up streams whose memory is known."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from adastate import metrics
from adastate.metrics import Passages, hidden_passages, memory, open_passages

ROWS, PICTURES = 24, 240
RATE = torch.tensor([1.0, 2.0, 2**0.5, 2 * 2**0.5] * (ROWS // 4)) / 56


def due() -> Tensor:
    """Hues that are right, `[B, T]`."""
    start = torch.rand(ROWS, 1, generator=torch.Generator().manual_seed(1))
    return (start + RATE[:, None] * torch.arange(PICTURES)) % 1


def hidden(hues: Tensor, period: int = 15, fog: int = 9) -> Tensor:
    """The same with a bank of fog in every period."""
    return hues.masked_fill((torch.arange(PICTURES) % period < fog)[None], math.nan)


def bank(period: int = 15) -> Tensor:
    return torch.arange(PICTURES) // period


def through_fog(hues: Tensor) -> metrics.MemoryFigures:
    return memory(hidden_passages(hidden(hues), RATE, 5))


def test_perfect_memory_has_slope_1_and_no_error() -> None:
    found = through_fog(due())
    assert found.slope == pytest.approx(1, abs=1e-4) and found.error < 1e-4 and found.relative < 1e-3
    assert found.hold > 0.2, "standing still costs far more than a good stream's error"


def test_a_hue_that_never_changes_has_slope_0_and_the_error_of_holding_still() -> None:
    found = through_fog(due()[:, :1].expand(-1, PICTURES))
    assert found.slope == pytest.approx(0, abs=1e-5) and found.relative == pytest.approx(1)


def test_no_memory_has_slope_0_and_the_error_of_chance() -> None:
    drawn = torch.rand(ROWS, int(bank()[-1]) + 1, generator=torch.Generator().manual_seed(2))
    found = through_fog(drawn[:, bank()])
    assert abs(found.slope) < 0.35 and found.error == pytest.approx(metrics.CHANCE, abs=0.03)


def test_moving_on_by_always_the_same_is_no_memory() -> None:
    mean = float(RATE.mean()) * torch.arange(PICTURES)
    found = through_fog(mean.expand(ROWS, -1) % 1)
    assert found.slope == pytest.approx(0, abs=1e-4) and found.error == pytest.approx(found.mean, abs=1e-4)
    assert found.mean < found.hold


def test_a_stream_that_drifts_remembers_and_is_wrong() -> None:
    step = 0.08 * torch.randn(ROWS, int(bank()[-1]) + 1, generator=torch.Generator().manual_seed(3))
    found = through_fog((due() + step.cumsum(1)[:, bank()]) % 1)
    assert found.slope == pytest.approx(1, abs=0.15) and 0.04 < found.error < 0.09


def test_half_the_way_is_a_slope_of_one_half() -> None:
    start = due()[:, :1]
    found = memory(open_passages((start + RATE[:, None] / 2 * torch.arange(PICTURES)) % 1, RATE, 9))
    assert found.slope == pytest.approx(0.5, abs=1e-3)
    assert memory(open_passages(due(), RATE, 9)).error < 1e-5


def test_passages_lie_where_the_fog_lies() -> None:
    found = hidden_passages(hidden(due()), RATE, 5)
    assert found.at.unique().tolist() == list(range(24, PICTURES, 15)), "a first bank has nothing before it"
    assert torch.allclose(found.due, RATE.double()[found.row] * 10)
    assert len(hidden_passages(hidden(due()), RATE, 10)) == 0, "too short to count"
    assert len(found.between(24, 40)) == 2 * ROWS


def test_where_a_slope_is_ambiguous_it_is_refused_and_where_there_is_nothing_it_is_nan() -> None:
    far = torch.tensor([0.0, 1.2], dtype=torch.float64)
    with pytest.raises(ValueError, match="of one length at a time"):
        memory(Passages(far, far, torch.tensor([0, 1]), torch.tensor([5, 5])))
    none = memory(hidden_passages(due(), RATE, 5))
    assert none.passages == 0 and math.isnan(none.error) and math.isnan(none.relative)
