"""Circuits: a short lap of hues, and a lens that no caption tells and nothing changes."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from adastate import metrics
from datamodules.worlds import circuit, fog, journey
from datamodules.worlds.circuit import CONTRAST, EXPOSURE, GRAIN, LAP, LensConstants
from datamodules.worlds.fog import Foggy
from datamodules.worlds.journey import Journey
from datamodules.worlds.world_clips import world_batch

BARE = [replace(f, mover="nothing else moves") for f in circuit.even_circuits(16, 3)]
PLAIN_LENS = LensConstants(0.0, 1.0, 0.0)
PICTURES = 40


def test_a_lap_is_short_and_the_middle_of_the_view_tells_where_on_it_a_flight_is() -> None:
    assert 48 <= LAP <= 64
    rate = torch.tensor([f.turning for f in BARE])
    assert torch.allclose(rate, torch.tensor([f.velocity for f in BARE]).float().norm(dim=1) / LAP)
    hue = metrics.ground_hue(circuit.render_circuit(BARE, PICTURES), middle=16)
    found = metrics.memory(metrics.open_passages(hue, rate, 10))
    assert found.slope == pytest.approx(1, abs=0.05) and found.error < 0.03 < 0.25 < found.hold


def test_the_lens_is_all_that_is_new_in_a_picture() -> None:
    bare = [replace(f, lens=PLAIN_LENS) for f in BARE[:4]]
    assert torch.equal(circuit.render_circuit(bare, 5), journey.render_journey(bare, 5))
    through = [replace(f, lens=LensConstants(0.05, 0.8, 0.06)) for f in bare]
    away = circuit.render_circuit(through, 5) - 0.8 * journey.render_journey(bare, 5) - 0.05
    assert torch.allclose(away, 0.06 * circuit.pattern().expand_as(away), atol=1e-5)
    assert circuit.pattern().mean() == 0


def test_constants_are_even_stay_and_stand_in_no_caption() -> None:
    lenses = [circuit.own_constants(0, i) for i in range(400)]
    for name, (low, high) in (("exposure", EXPOSURE), ("contrast", CONTRAST), ("grain", GRAIN)):
        told = torch.tensor([getattr(o, name) for o in lenses])
        assert low <= told.min() and told.max() <= high
        assert told.mean().item() == pytest.approx((low + high) / 2, abs=0.1 * (high - low))
    video = circuit.render_circuit(BARE, PICTURES)
    found = metrics.lens_constants(video, 20, circuit.pattern())
    for name, values in found.items():
        spread = values.std(0).mean()
        drift = metrics.from_beginning(values)[:, 1:].mean()
        assert drift < 0.25 * spread, f"{name} is the flight's own and does not drift: {drift} {spread}"
    grain = torch.tensor([f.lens.grain for f in BARE])
    assert (found["grain"].mean(1) - grain).abs().max() < 0.02
    assert [f.caption for f in BARE[:4]] == [replace(f, lens=PLAIN_LENS).caption for f in BARE[:4]]


def test_mist_is_fog_over_a_circuit() -> None:
    flights = [replace(f, mover="nothing else moves") for f in circuit.even_mist(16, 3)]
    assert all(isinstance(f, Foggy) and isinstance(f, Journey) for f in flights)
    bare = [replace(f, lens=PLAIN_LENS) for f in flights]
    assert torch.equal(circuit.render_mist(bare, 8, 3), fog.render_fog(bare, 8, 3))
    hue = metrics.ground_hue(circuit.render_mist(flights, 80), strength=0.3, middle=16)
    found = metrics.memory(metrics.hidden_passages(hue, torch.tensor([f.turning for f in flights]), 5))
    assert found.passages > 30 and found.slope == pytest.approx(1, abs=0.1)
    assert found.error < 0.05 and found.hold > 0.2, found


def test_pictures_come_from_their_number_alone_and_the_worlds_are_handed_out_by_name() -> None:
    assert torch.allclose(circuit.render_circuit(BARE, 6)[:, 2:], circuit.render_circuit(BARE, 4, 2), atol=1e-5)
    for kind, draw, show in (
        ("circuit", circuit.circuit, circuit.render_circuit),
        ("mist", circuit.mist, circuit.render_mist),
    ):
        made = world_batch(0, range(3), 2, kind=kind)  # type: ignore[arg-type]
        assert torch.equal(made.video, show([draw(0, i) for i in range(3)], 2))  # type: ignore[arg-type, operator]
