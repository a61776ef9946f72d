"""The measures of a rollout, on true flights and on flights that go wrong in known ways."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache

import pytest
import torch
from torch import Tensor

from adastate import metrics
from adastate.study import measures
from adastate.study.measures import HUES, MEASURES, PARTS, Curves, feature_moments, measure_curves
from adastate.study.world_truth import hues_of, passages_of, world_truth
from datamodules.worlds import flyover, fog, journey

ONCE, HORIZONS, ROWS = 21, 3, 4


@cache
def truth(kind: str) -> tuple[list[flyover.Flight], Tensor]:
    some = [replace(f, mover="nothing else moves") for f in world_truth(kind).even(ROWS, 3)]
    return some, world_truth(kind).render(some, ONCE * HORIZONS, 0)


@cache
def measured(kind: str, change: Callable[[Tensor], Tensor] = torch.clone) -> Curves:
    some, video = truth(kind)
    return measure_curves(change(video), some, ONCE, 3, 8)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["plain", "journey"])
def test_true_flights_move_as_told_and_follow(kind: str) -> None:
    found = measured(kind)
    assert all(c.shape == (ROWS, HORIZONS) for c in found.values()) and found.keys() <= {*MEASURES, *HUES}
    assert torch.allclose(found["forward"], torch.ones(ROWS, HORIZONS)) and found["heading"].min() == 1
    assert found["warp_error"].max() < 0.06 and found["flicker"].mean().item() == pytest.approx(1, abs=0.1)
    assert found["repetition"][:, 0].isnan().all() and found["repetition"][:, 1:].max() < 0.97
    assert found["loop"][:, :2].isnan().all() and found["loop"][:, 2:].max() < 0.95
    assert set(PARTS) <= found.keys()


def test_a_frozen_rollout_neither_moves_nor_leaves_and_repeats_itself() -> None:
    found = measured("journey", lambda v: v[:, :1].expand_as(v))
    for name in ("forward", "turning", "flow", "change", "departure", "warp_error"):
        assert found[name].abs().max() < 1e-4, name
    assert found["repetition"][:, 1:].min() > 0.999 and found["loop"][:, 2:].min() > 0.999


@pytest.mark.slow
def test_the_ground_of_a_journey_turns_as_fast_as_it_should_and_half_as_fast_at_half_the_speed() -> None:
    assert (measured("journey")["turning"] - 1).abs().mean() < 0.15
    slow = measured("journey", lambda v: v[:, torch.arange(v.shape[1]) // 2])
    assert slow["turning"].mean().item() == pytest.approx(0.5, abs=0.1)
    assert slow["forward"].mean().item() == pytest.approx(0.5, abs=0.1)


@pytest.mark.slow
def test_a_livery_that_wanders_is_seen() -> None:
    some, video = truth("journey")
    assert measured("journey")["livery"].nanmean() < 0.02
    other = [replace(f, livery=(f.livery + 0.2) % 1) for f in some]  # type: ignore[call-arg,attr-defined]
    swapped = torch.cat([video[:, :42], journey.render_journey(other, 21, 42)], 1)  # type: ignore[arg-type]
    found = measure_curves(swapped, some, ONCE, 3, 8)["livery"].nanmean(0)
    assert found[:2].max() < 0.02 and found[2].item() == pytest.approx(0.2, abs=0.02)


@pytest.mark.slow
def test_in_fog_true_flights_follow_and_remember() -> None:
    found = measured("fog")
    assert found.keys() <= {*MEASURES, *HUES} and set(PARTS) <= found.keys()
    assert (found["turning"] - 1).abs().mean() < 0.1 and found["forward"].mean() > 0.9
    assert found["recall"].nanmean() < 0.01 and found["recall_long"].nanmean() < 0.01
    assert 0.5 < found["fog"].mean() < 0.8


@pytest.mark.slow
def test_a_scene_that_fog_has_wiped_out_is_seen_to_be_another() -> None:
    """From bank to bank the ground is where it should be plus a quarter of the ring; within the clear it follows."""
    some, _ = truth("fog")
    pictures, changed = ONCE * HORIZONS, []
    for flight in some:
        assert isinstance(flight, fog.Foggy)
        bank = ((torch.arange(pictures) / flight.period + flight.phase + 0.5) // 1).long()
        others = [fog.render_fog([replace(flight, region=flight.region + 0.25 * b)], pictures) for b in range(6)]
        changed.append(torch.cat(others)[bank % 6, torch.arange(pictures)])
    found = measure_curves(torch.stack(changed), some, ONCE, 3, 8)
    assert found["recall"].nanmean().item() == pytest.approx(0.25, abs=0.01)
    assert (found["turning"] - 1).abs().mean() < 0.1


def test_a_state_that_holds_the_ground_is_told_from_one_that_has_lost_it() -> None:
    some, video = truth("fog")
    clear = journey.render_journey([f for f in some if isinstance(f, fog.Foggy)], ONCE * HORIZONS)[:, 1::3]
    lost = torch.arange(clear.shape[1]) >= 2 * ONCE // 3
    states = torch.where(lost[None, :, None, None, None], torch.full_like(clear, 0.1), clear)
    found = measures.hidden_state_curves(video, states, some, ONCE)
    assert found["held"].mean(0).tolist() == [1, 1, 0]
    assert found["recall_held"][:, :2].nanmean() < 0.01 and found["recall_lost"][:, :2].isnan().all()
    assert not found["recall_lost"][:, 2].isnan().all()
    none = measures.hidden_state_curves(video, None, some, ONCE)
    assert all(c.shape == (ROWS, HORIZONS) and c.isnan().all() for c in none.values())
    assert measures.hidden_state_curves(video, None, truth("journey")[0], ONCE) == {}


@pytest.mark.slow
def test_true_flights_of_the_mist_remember_and_keep_their_lens() -> None:
    some, video = truth("mist")
    passages = passages_of(video, some)
    assert passages is not None and passages_of(*reversed(truth("plain"))) is None
    found = metrics.memory(passages)
    assert found.error < 0.05 < 0.2 < found.hold and len(passages) >= ROWS
    drift = measured("mist")["lens_drift"]
    assert drift[:, 0].isnan().all() and drift[:, 1:].mean() < 0.2
    faded = measured("mist", lambda v: v * torch.linspace(1, 0.5, v.shape[1]).view(1, -1, 1, 1, 1))
    assert faded["lens_drift"][:, 2].mean() > drift[:, 2].mean() + 0.3
    assert hues_of(video, some).isnan().any(), "in fog there is no hue"


@pytest.mark.slow
def test_flicker_decay_and_the_wrong_ground_are_seen() -> None:
    def flickering(v: Tensor) -> Tensor:
        return v + 0.2 * ((torch.arange(v.shape[1]) // 3) % 2)[None, :, None, None, None]

    def fading(v: Tensor) -> Tensor:
        return v * (0.8 ** (torch.arange(v.shape[1]) // ONCE))[None, :, None, None, None]

    assert measured("plain", flickering)["flicker"].min() > 1.5
    contrast, before = measured("plain", fading)["contrast"], measured("plain")["contrast"]
    assert (contrast / before).mean(0).tolist() == pytest.approx([0.8**i for i in range(HORIZONS)], rel=1e-3)
    assert measured("plain")["palette"].mean() == 1
    assert measured("plain", lambda v: v.flip(0))["palette"].mean() < 0.5


def test_moments_are_those_of_the_pairs_of_each_horizon() -> None:
    _, video = truth("plain")
    found = feature_moments(video, ONCE)
    assert found.shape[:2] == (ROWS, HORIZONS) and found.dtype == torch.float64
    assert found[0, 0, 0] == ONCE - 1, "pairs of pictures"


def test_hues_are_averaged_around_the_circle() -> None:
    found = measures._mean_hue(torch.tensor([[0.9, 0.1, 0.4, float("nan")]]), 2)
    assert float((found[0, 0] + 0.5) % 1) == pytest.approx(0.5, abs=1e-5) and found[0, 1].item() == pytest.approx(0.4)
