"""Actions do what they say, poses integrate, and prompts keep to their vocabulary."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from adastate.config.world_words import vocabulary, words
from datamodules.worlds.flight.atmosphere import TIMES, WEATHERS
from datamodules.worlds.flight.biomes import BIOMES
from datamodules.worlds.flight.camera_path import BANK, CRUISE, FASTER, HIGHEST, KEYS, LOWEST, POSE, beneath, path
from datamodules.worlds.flight.flight_prompts import PHRASES, caption
from datamodules.worlds.flight.voyages import LANDMARKS, Rules, steering, voyage

FLIGHT = voyage(7, 0)


def steered(keys: str, frames: int = 8) -> dict[str, Tensor]:
    """Columns of the poses of a flight on which `keys` are held."""
    actions = torch.tensor([[float(k in keys) for k in KEYS]]).repeat(frames, 1)
    return dict(zip(POSE, path(FLIGHT, actions).T, strict=True))


def test_poses_start_where_the_flight_does_and_count_pictures() -> None:
    poses = steered("")
    assert (poses["x"][0], poses["y"][0]) == pytest.approx(FLIGHT.start)
    assert poses["yaw"][0] == pytest.approx(FLIGHT.heading) and poses["flown"][0] == 0
    assert poses["clock"].tolist() == list(range(24))
    assert path(FLIGHT, torch.zeros(5, 8), pictures=4).shape == (20, 8)


@pytest.mark.parametrize("keys", ["", "d", "a", "wd", "s", "ik"])
def test_poses_integrate(keys: str) -> None:
    p = steered(keys)
    dx, dy, flown, yaw = (p[n].diff() for n in ("x", "y", "flown", "yaw"))
    assert torch.allclose(torch.hypot(dx, dy), flown, atol=1e-7)
    assert torch.allclose(torch.remainder(torch.atan2(dx, dy) - p["yaw"][1:] + 1, 2 * math.pi), torch.ones(23).double())
    assert torch.allclose(p["roll"][1:], BANK * yaw), "tilt follows turn"


def test_a_and_d_turn_and_bank_to_their_sides_by_the_flight_s_own_agility() -> None:
    left, right, both = steered("a"), steered("d"), steered("ad")
    assert right["yaw"].diff()[-1] == pytest.approx(FLIGHT.agility, rel=0.01) and 0.07 <= FLIGHT.agility <= 0.11
    assert torch.allclose(left["yaw"].diff(), -right["yaw"].diff()) and right["roll"][-1] > 0 > left["roll"][-1]
    assert both["yaw"].diff().abs().max() == 0
    assert right["yaw"].diff(n=2).abs().max() <= 0.41 * FLIGHT.agility, "smoothly"


def test_w_and_s_change_the_speed_and_together_hover() -> None:
    speeds = {keys: float(steered(keys)["flown"].diff()[-1]) for keys in ("", "w", "s", "ws")}
    assert speeds[""] == pytest.approx(CRUISE) and speeds["ws"] == pytest.approx(0, abs=0.01)
    assert speeds["w"] == pytest.approx(CRUISE + FASTER, abs=0.01)
    assert speeds["s"] == pytest.approx(CRUISE - FASTER, abs=0.01)


def test_i_climbs_and_k_sinks_within_bounds() -> None:
    for keys, sign, end in (("i", 1, HIGHEST), ("k", -1, LOWEST)):
        p = steered(keys, 12)
        over = p["z"] - beneath(FLIGHT, torch.stack([p["x"], p["y"]], 1))
        assert (sign * over.diff() > -1e-9).all() and over[-1] == pytest.approx(end)
        assert sign * (p["pitch"][-1] - p["pitch"][0]) > 0


def test_j_and_l_look_aside_and_together_back_while_the_flight_goes_on() -> None:
    for keys, angle in (("j", -math.pi / 2), ("l", math.pi / 2), ("jl", math.pi)):
        p, plain = steered(keys, 8), steered("", 8)
        turned = p["yaw"] - plain["yaw"]
        assert turned[-1] == pytest.approx(angle)
        assert turned.diff().abs().max() == pytest.approx(FLIGHT.gaze) and 0.2 <= FLIGHT.gaze <= 0.45
        assert torch.equal(p["x"], plain["x"]) and torch.equal(p["flown"], plain["flown"])


def test_looking_back_tilts_the_other_way() -> None:
    assert steered("djl")["roll"][-1] == pytest.approx(-float(steered("d")["roll"][-1]))


def test_steering_is_drawn_from_the_number_and_prefixes_agree() -> None:
    actions = steering(1, 2, 40)
    assert torch.equal(steering(1, 2, 9), actions[:9]) and not torch.equal(steering(1, 3, 40), actions)
    many = torch.cat([steering(1, i, 40) for i in range(50)])
    assert set(many.unique().tolist()) == {0.0, 1.0}
    share = dict(zip(KEYS, many.mean(0).tolist(), strict=True))
    assert all(0.25 < share[k] < 0.42 for k in "adik") and all(0.03 < share[k] < 0.16 for k in "jl")
    back, hover = (many[:, 5] * many[:, 7]).mean(), (many[:, 0] * many[:, 2]).mean()
    assert 0.02 < back < 0.12 and 0.02 < hover < 0.12


def test_prompts_keep_to_the_vocabulary_and_say_what_is_true() -> None:
    known = set(vocabulary("flight"))
    assert len(known) < 64 and list(vocabulary("flight")) == sorted(known, key=lambda w: (w.lower(), w))
    used: set[str] = set()
    for i in range(300):
        flight = voyage(2, i, Rules(changing=i % 2 == 0))
        text = caption(flight)
        used |= set(words(text))
        assert flight.biome in text and flight.time in text and flight.weather in text
        assert (flight.landmark in text) == (flight.landmark != "nothing else")
        assert ("later snow" in text) == flight.changing
    assert used == known


def test_each_flight_can_be_told_in_several_ways_and_no_fact_twice() -> None:
    told = {caption(FLIGHT, i) for i in range(len(PHRASES))}
    assert len(told) == len(PHRASES) >= 4
    for names in (BIOMES, TIMES, WEATHERS, LANDMARKS):
        assert len(names) == len(set(names))


def test_captions_hide_lens_and_veils() -> None:
    assert caption(voyage(7, 0, Rules(lens=True, veils=True, drifting=True))) == caption(FLIGHT)
