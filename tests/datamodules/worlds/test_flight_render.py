"""The flight world's pictures: any one of them alone, in any company, and on every machine the same."""

from __future__ import annotations

import hashlib
import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.nn import functional as nnf

from datamodules.worlds.flight import lattice
from datamodules.worlds.flight.atmosphere import TIMES, WEATHERS
from datamodules.worlds.flight.biomes import BIOMES
from datamodules.worlds.flight.camera_path import path
from datamodules.worlds.flight.contact_sheet import main as contact_sheet
from datamodules.worlds.flight.landmarks import COLOURS, drifted, sight
from datamodules.worlds.flight.lens import Lens, through_lens
from datamodules.worlds.flight.terrain import OCTAVES, SIDE, terrain_height, window
from datamodules.worlds.flight.veils import EVERY, hidden_shares
from datamodules.worlds.flight.voxel_render import SIZE, VIEW, render_flight, render_flights
from datamodules.worlds.flight.voyages import CHANGE, LANDMARKS, PLAIN, Rules, Voyage, steering, voyage

LSB = 2 / 255
"""One step of a byte, in video's [-1, 1]."""

ALL = Rules(changing=True, veils=True, drifting=True)


def flown(index: int, rules: Rules = ALL, frames: int = 12) -> tuple[Voyage, Tensor]:
    flight = voyage(3, index, rules)
    return flight, path(flight, steering(3, index, frames))


@pytest.mark.parametrize("index", range(3))
def test_a_picture_is_the_same_alone_in_a_clip_and_in_any_order(index: int) -> None:
    flight, poses = flown(index)
    whole = render_flight(flight, poses)
    assert whole.shape == (36, 3, SIZE, SIZE) and whole.abs().max() <= 1
    order = [20, 3, 35, 11]
    assert (render_flight(flight, poses[order]) - whole[order]).abs().max() < LSB
    for i in (5, 30):
        assert (render_flight(flight, poses[i : i + 1])[0] - whole[i]).abs().max() < LSB


def test_flights_do_not_know_of_each_other() -> None:
    (one, at), (two, there) = flown(0, frames=3), flown(1, frames=3)
    both = render_flights([one, two], torch.stack([at, there]))
    assert both.shape == (2, 9, 3, SIZE, SIZE)
    assert torch.equal(both[1], render_flight(two, there)) and torch.equal(
        render_flights([two, one], [there, at])[1], both[0]
    )


def test_numbers_of_places_are_the_same_on_every_machine() -> None:
    x, y = torch.arange(-40, 40), torch.arange(-25, 25)[:, None]
    drawn = (lattice.numbers(1234567, 3, x, y) * 2**24).to(torch.int32)
    assert hashlib.sha256(drawn.numpy().astype("<i4").tobytes()).hexdigest()[:16] == "57008e7672f1766f"
    assert lattice.numbers(1, 0, x, y).mean() == pytest.approx(0.5, abs=0.02)


def test_pictures_are_what_they_were() -> None:
    """Thumbnails of three flights as bytes: within one step of what another machine drew."""
    seen = []
    for index in range(3):
        flight, poses = flown(index, frames=8)
        small = nnf.adaptive_avg_pool2d(render_flight(flight, poses[23:]), 2)
        seen.append(((small + 1) * 127.5).round().int().flatten().tolist())
    expected = [
        [229, 237, 178, 191, 135, 161, 90, 112, 124, 140, 60, 72],
        [125, 121, 120, 112, 154, 150, 106, 71, 196, 187, 105, 58],
        [45, 45, 45, 45, 39, 39, 39, 40, 36, 36, 36, 36],
    ]
    assert (torch.tensor(seen) - torch.tensor(expected)).abs().max() <= 1


def test_noise_has_unit_deviation_and_points_agree_with_maps() -> None:
    for octave, step in enumerate(OCTAVES):
        wide = lattice.noise_map(5, octave, (320, -640), 256, step)
        assert wide.std() == pytest.approx(1, abs=0.35), "few lattice points of the widest"
        x, y = torch.tensor([0, 17, 200]), torch.tensor([4, 99, 255])
        at = torch.stack([x + 320, y - 640], 1).double()
        assert torch.allclose(lattice.noise_at(5, octave, at, step), wide[y, x], atol=1e-4)
    again = lattice.noise_map(5, 0, (0, 0), 128, (16, 16), period=4)
    assert torch.allclose(again[:64], again[64:], atol=1e-5)


@pytest.mark.parametrize("kind", BIOMES)
def test_windows_of_land_fit_together_and_agree_with_points(kind: str) -> None:
    one, two = window(9, kind, (1024, 2048)), window(9, kind, (1024 + 64, 2048 + 32))
    assert torch.allclose(one.height[32:, 64:], two.height[: SIDE - 32, : SIDE - 64], atol=2e-3)
    x, y = torch.tensor([3, 100, 211]), torch.tensor([77, 5, 130])
    at = torch.stack([x + 1024, y + 2048], 1).double()
    assert torch.allclose(terrain_height(9, kind, at), one.height[y, x], atol=5e-3)
    assert one.matter.min() >= 0 and one.matter.max() < 1.5
    assert (one.wet.max() > 0.9) == (BIOMES[kind].sea is not None), "what has a sea shows it in 256 units"


def test_a_flight_keeps_above_the_land() -> None:
    for index in range(12):
        flight, poses = flown(index, frames=20)
        over = poses[:, 2] - terrain_height(flight.seed, flight.biome, poses[:, :2])
        assert over.min() > 1.5, (index, flight.biome, float(over.min()))


def test_landmarks_are_drawn_where_they_are_said_to_be() -> None:
    found = 0
    for index in range(16):
        flight = voyage(4, index, PLAIN, time="noon", weather="clear sky", landmark="hot-air balloons")
        poses = path(flight, steering(4, index, 7))
        bare = render_flight(replace(flight, landmark="nothing else"), poses)
        marked = (render_flight(flight, poses) - bare).abs().sum(1) > 0.2
        seen = sight(flight, poses)
        for t, n in ((seen.ahead > 12) & (seen.ahead < 45) & (seen.bearing.abs() < 0.5)).nonzero().tolist():
            alone = (seen.bearing[t] - seen.bearing[t, n]).abs() + 1.0 * (seen.ahead[t] < 0)
            if alone.topk(min(2, len(alone)), largest=False).values[-1] < 0.35:
                continue
            column = float(seen.side[t, n] / seen.ahead[t, n]) * SIZE / VIEW + SIZE / 2 - 0.5
            near = marked[t, :, max(0, round(column) - 7) : round(column) + 8]
            if near.sum() < 12:  # behind a hill
                continue
            centre = (near.float().sum(0) * torch.arange(near.shape[1])).sum() / near.sum() + max(0, round(column) - 7)
            assert abs(float(centre) - column) < 1.5, (index, t, n)
            found += 1
    assert found > 20


def test_landmarks_stay_and_one_drifts() -> None:
    flight = replace(voyage(4, 1, Rules(drifting=True)), landmark="white towers")
    there = torch.zeros(2, 8, dtype=torch.float64)
    there[:, :2], there[1, 7] = torch.tensor(flight.start), 100
    seen = sight(flight, there)
    assert torch.equal(seen.side[0, :-1], seen.side[1, :-1]) and torch.equal(seen.ahead[0, :-1], seen.ahead[1, :-1])
    assert (seen.colour[:-1] < len(COLOURS)).all() and seen.colour[-1] == len(COLOURS)
    assert seen.balloon.tolist() == [False] * (len(seen.balloon) - 1) + [True]
    moved = drifted(flight, torch.tensor([0.0, 100.0]).double()).diff(dim=0).norm()
    assert float(moved) == pytest.approx(18)


def test_a_head_that_looks_back_sees_the_same_landmarks_on_its_return() -> None:
    flight = replace(voyage(4, 2, PLAIN), landmark="hot-air balloons")
    poses = torch.tensor([*flight.start, 30, flight.heading, 0, 0, 0, 0], dtype=torch.float64).repeat(2, 1)
    poses[1, 3] += 2 * math.pi
    one, two = render_flight(flight, poses)
    assert (one - two).abs().max() < LSB


def test_the_lens_is_exposure_contrast_and_grain() -> None:
    light = torch.full((40, 3, 32, 32), 0.5)
    clock = torch.arange(40.0)
    assert torch.equal(through_lens(Lens(), 1, light, clock), light)
    assert torch.allclose(through_lens(Lens(1.1, 1.2), 1, light, clock), torch.tensor(0.45 + 1.2 * (0.55 - 0.45)))
    grainy = through_lens(Lens(grain=0.02), 1, light, clock)
    assert grainy.std() == pytest.approx(0.02, rel=0.02) and (grainy.mean() - 0.5).abs() < 1e-3
    assert torch.equal(through_lens(Lens(grain=0.02), 1, light[:1], clock[7:8])[0], grainy[7])
    assert not torch.equal(grainy[0], grainy[1])


def test_a_scene_that_changes_does_so_for_good_and_not_at_once() -> None:
    flight, poses = flown(0, Rules(lens=False, grain=False, changing=True), frames=1)
    still = replace(flight, changing=False)
    assert torch.equal(render_flight(flight, poses), render_flight(still, poses))
    late = poses.clone()
    late[:, 6] = CHANGE[1]
    later = poses.clone()
    later[:, 6] = 10 * CHANGE[1]
    assert torch.equal(render_flight(flight, late), render_flight(flight, later))
    assert (render_flight(flight, late) - render_flight(still, late)).abs().mean() > 0.1
    assert torch.equal(render_flight(still, late), render_flight(still, poses)), (
        "nothing else depends on the distance flown"
    )


@pytest.mark.slow
def test_veils_hide_everything_for_longer_than_a_clip_and_pass() -> None:
    kinds = set()
    for seed in range(12):
        cloud, tunnel = hidden_shares(seed, torch.arange(3 * EVERY))
        whole = (cloud + tunnel == 1).int()
        assert (cloud * tunnel == 0).all() and whole.sum() >= 3 * 24 and (cloud + tunnel)[:10].sum() == 0
        kinds |= {name for name, x in (("cloud", cloud), ("tunnel", tunnel)) if x.max() == 1}
    assert kinds == {"cloud", "tunnel"}
    flight, poses = flown(0, Rules(lens=False, grain=False, veils=True), frames=40)
    cloud, tunnel = hidden_shares(flight.seed, poses[:, 7])
    dark = int((cloud + tunnel).argmax()) + 6
    elsewhere = poses[dark : dark + 1].clone()
    elsewhere[:, :2] += 500
    assert (render_flight(flight, elsewhere) - render_flight(flight, poses[dark : dark + 1])).abs().mean() < 0.01


def test_what_is_fixed_changes_nothing_else() -> None:
    one, two = voyage(0, 5, ALL), voyage(0, 5, ALL, biome="lava fields", time="night")
    assert replace(one, biome="lava fields", time="night") == two
    with pytest.raises(ValueError, match="there is snowy mountains"):
        voyage(0, 5, biome="the moon")
    with pytest.raises(ValueError, match="a flight has biome"):
        voyage(0, 5, colour="red")


def test_facts_are_drawn_evenly() -> None:
    drawn = [voyage(0, i) for i in range(600)]
    for name, values in (("biome", BIOMES), ("time", TIMES), ("weather", WEATHERS), ("landmark", LANDMARKS)):
        for value in values:
            share = sum(getattr(v, name) == value for v in drawn) / len(drawn)
            assert share == pytest.approx(1 / len(values), abs=0.07), (name, value)
    assert all(0.07 <= v.agility <= 0.11 and 0.2 <= v.gaze <= 0.45 for v in drawn)


def test_a_contact_sheet_shows_flights(tmp_path) -> None:
    from PIL import Image

    contact_sheet([str(tmp_path / "sheet.png"), "--flights", "2", "--frames", "3", "--up", "1", "--drifting"])
    assert Image.open(tmp_path / "sheet.png").size == (3 * 68 + 4, 2 * (64 + 16 + 4))
