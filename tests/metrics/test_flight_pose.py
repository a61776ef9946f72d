"""Tilt and turn are read off unseen flights as well as the docstrings and the plan say."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from adastate.metrics import flight_pose
from adastate.metrics.flight_pose import SURE, Turning, cylinder, tilt, turning
from datamodules.worlds.flight import camera_path, veils, voxel_render
from datamodules.worlds.flight.voxel_render import render_flight
from datamodules.worlds.flight.voyages import Rules, Voyage, steering, voyage
from tests.support.flight_clips import Flown, codec_like, flown

WAYS = ("i", "k", "ws", "w", "s", "l", "a")


@pytest.fixture(scope="module")
def unseen() -> Flown:
    return flown(100, 64, 4)


def turned(poses: Tensor) -> Tensor:
    return poses[..., 3].diff(dim=1)


def test_the_measures_know_the_world_s_camera() -> None:
    assert (flight_pose.VIEW, flight_pose.LEVEL) == (voxel_render.VIEW, camera_path.DOWN)


@pytest.mark.parametrize(
    ("worse", "median", "mean"), [(False, 0.7, 2.0), pytest.param(True, 1.0, 2.5, marks=pytest.mark.slow)]
)
@pytest.mark.slow
def test_tilt_in_degrees(unseen: Flown, worse: bool, median: float, mean: float) -> None:
    video = codec_like(unseen.video) if worse else unseen.video
    error = torch.rad2deg(tilt(video) - unseen.poses[..., 5]).abs()
    assert error.median() < median and error.mean() < mean
    banked = unseen.poses[..., 5].abs() > math.radians(6)
    right_way = (tilt(video).sign() == unseen.poses[..., 5].sign())[banked].float().mean()
    assert right_way > 0.95 and banked.sum() > 100


@pytest.mark.parametrize(("worse", "median", "share"), [(False, 0.0045, 0.85), (True, 0.005, 0.65)])
@pytest.mark.slow
def test_turns_in_radians_a_picture_where_the_measure_is_sure(
    unseen: Flown, worse: bool, median: float, share: float
) -> None:
    found = turning(codec_like(unseen.video) if worse else unseen.video)
    error, sure = (found.rate - turned(unseen.poses)).abs(), found.sure > SURE
    assert error[sure].median() < median
    assert sure.float().mean() > share, "sure often enough to be of use"
    assert error[~sure].median() > error[sure].median()
    clear = sure & (turned(unseen.poses).abs() > 0.03)
    assert (found.rate.sign() == turned(unseen.poses).sign())[clear].float().mean() > 0.95


@pytest.mark.slow
@pytest.mark.parametrize("worse", [False, True], ids=["exact", "codec"])
def test_climbs_looks_aside_and_hovering(worse: bool) -> None:
    ways = [_way(i, keys) for i, keys in enumerate(WAYS * 10)]
    whole, poses = torch.stack([render_flight(*way) for way in ways]), torch.stack([way[1] for way in ways])
    video = codec_like(whole) if worse else whole
    off = torch.rad2deg(tilt(video) - poses[..., 5]).abs()
    found = turning(video)
    error, sure = (found.rate - turned(poses)).abs(), found.sure > SURE
    assert off.median() < 1
    for i, keys in enumerate(WAYS):
        own = slice(i, None, len(WAYS))
        assert off[own].median() < (1.6 if worse else 1.0), keys
        assert error[own][sure[own]].median() < (0.015 if {"j", "l"} & set(keys) else 0.006), keys
        assert sure[own].float().mean() > 0.4, keys


def _way(index: int, keys: str) -> tuple[Voyage, Tensor]:
    """A flight and its poses under the command `keys`, after a turn to the right."""
    flight = voyage(301, index, Rules(grain=False))
    actions = torch.tensor([[float(key in held) for key in camera_path.KEYS] for held in ["d"] * 2 + [keys] * 3])
    return flight, camera_path.path(flight, actions)[3:13]


@pytest.mark.slow
def test_of_a_veiled_flight_the_measure_is_not_sure() -> None:
    video, poses, amounts = [], [], []
    for i in range(16):
        flight = voyage(4000, i, Rules(grain=False, veils=True))
        way = camera_path.path(flight, steering(4000, i, 40))
        hides = sum(veils.hidden_shares(flight.seed, way[:, 7]))
        first = int(hides.argmax()) - 6
        poses.append(way[first : first + 18])
        amounts.append(hides[first : first + 18])
        video.append(render_flight(flight, poses[-1]))
    error = (turning(torch.stack(video)).rate - turned(torch.stack(poses))).abs()
    sure, hides = turning(torch.stack(video)).sure > SURE, torch.stack(amounts)
    whole = torch.minimum(hides[:, 1:], hides[:, :-1]) > 0.95
    assert sure[whole].float().mean() < 0.05 and whole.sum() > 100, "neither in a cloud nor in a tunnel"
    assert error[whole].median() > 0.03, "and rightly so"
    assert error[sure].median() < 0.006, "what it is sure of is true"


def test_a_changing_scene_does_not_matter() -> None:
    flights = [voyage(400, i, Rules(grain=False, changing=True)) for i in range(16)]
    poses = [camera_path.path(v, steering(400, i, 4), flown=60.0 + 4 * i) for i, v in enumerate(flights)]
    video, true = voxel_render.render_flights(flights, poses), torch.stack(poses)
    found = turning(video)
    sure = found.sure > SURE
    assert (found.rate - turned(true)).abs()[sure].median() < 0.005 and sure.float().mean() > 0.7
    assert torch.rad2deg(tilt(video) - true[..., 5]).abs().median() < 1


def test_a_mirror_turns_the_signs(unseen: Flown) -> None:
    video = unseen.video[:8, :6]
    assert torch.allclose(tilt(video.flip(-1)), -tilt(video), atol=0.01)
    one, two = turning(video), turning(video.flip(-1))
    sure = one.sure > SURE
    assert torch.allclose(two.rate[sure], -one.rate[sure], atol=0.005)


def test_a_still_neither_turns_nor_leaves_doubt(unseen: Flown) -> None:
    video = unseen.video[:4, :1].expand(-1, 3, -1, -1, -1)
    found = turning(video)
    assert isinstance(found, Turning) and found.rate.shape == (4, 2)
    assert found.rate.abs().max() < 2e-3 and (found.sure > SURE).all()


def test_plain_pictures_give_no_confidence() -> None:
    grey = torch.full((1, 3, 3, 64, 64), 0.2)
    assert (turning(grey).sure <= SURE).all()
    assert (turning(0.2 + 0.02 * torch.randn(4, 6, 3, 64, 64)).sure <= SURE).float().mean() > 0.9, "noise"


def test_a_turn_shifts_the_cylinder_and_does_nothing_else() -> None:
    (flight,) = flown(100, 1, 1, lens=False, weather="scattered clouds").flights
    pose = torch.tensor([*flight.start, 60, flight.heading, camera_path.DOWN, 0, 0, 0], dtype=torch.float64).repeat(
        2, 1
    )
    pose[1, 3] += 10 * 2 * math.atan(0.7) / 128
    video = voxel_render.render_flight(flight, pose)[None]
    (one, two), seen = cylinder(video, torch.zeros(1, 2))[0][0], cylinder(video, torch.zeros(1, 2))[1][0]
    both = (seen[0, ..., 10:] * seen[1, ..., :-10]).bool().expand(3, -1, -1)
    assert (one[..., 10:] - two[..., :-10]).abs()[both].mean() < 0.02
    assert (one - two).abs().mean() > 0.04
