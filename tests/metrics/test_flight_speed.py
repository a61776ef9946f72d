"""Pace over the ground of flights, and speed against the exact render."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from adastate.metrics.flight_speed import SURE_OF_SPEED, pace, speed_ratio
from datamodules.worlds.flight.camera_path import KEYS, path
from datamodules.worlds.flight.terrain import terrain_height
from datamodules.worlds.flight.voxel_render import render_flights
from datamodules.worlds.flight.voyages import Rules, Voyage, voyage
from tests.support.flight_clips import codec_like


def flights(keys: str, count: int = 10) -> tuple[list[Voyage], Tensor]:
    """Flights and their poses `[B, 10, 8]` under a command, once it has come about."""
    actions = torch.tensor([[float(key in keys) for key in KEYS]] * 7)
    own = [voyage(6000, i, Rules(grain=False)) for i in range(count)]
    return own, torch.stack([path(v, actions)[9:19] for v in own])


def over_the_ground(own: list[Voyage], poses: Tensor) -> Tensor:
    """Way flown over the height above the land from 3 to 15 units ahead, `[B, 9]`."""
    ahead = torch.stack([poses[..., 3].sin(), poses[..., 3].cos()], -1)
    spots = poses[..., None, :2] + torch.tensor([3.0, 6.0, 10.0, 15.0])[:, None] * ahead[..., None, :]
    land = torch.stack(
        [terrain_height(v.seed, v.biome, at).double().mean(-1) for v, at in zip(own, spots, strict=True)]
    )
    return (poses[..., 6].diff(dim=1) / (poses[..., 2] - land)[:, :-1]).float()


@pytest.fixture(scope="module")
def faster_and_slower() -> dict[str, tuple[Tensor, Tensor]]:
    out = {}
    for keys in ("w", "s", "ws"):
        own, poses = flights(keys)
        out[keys] = render_flights(own, list(poses)), over_the_ground(own, poses)
    return out


@pytest.mark.parametrize("worse", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["exact", "codec"])
@pytest.mark.slow
def test_pace_follows_the_speed(faster_and_slower: dict[str, tuple[Tensor, Tensor]], worse: bool) -> None:
    seen = {}
    for keys, (video, true) in faster_and_slower.items():
        found = pace(codec_like(video) if worse else video)
        sure = found.sure > SURE_OF_SPEED
        assert sure.float().mean() > (0.25 if worse else 0.7), keys
        seen[keys] = float(found.rate[sure].median())
        assert ((found.rate - true).abs() - 0.35 * true)[sure].median() < 0.01, keys
    assert abs(seen["ws"]) < 0.01 < 0.02 < seen["s"] < 0.06 < 0.09 < seen["w"]


@pytest.mark.slow
def test_speed_against_the_exact_render() -> None:
    own, poses = flights("")
    exact = render_flights(own, list(poses[:, :8]))
    assert speed_ratio(exact, exact).nanmedian().item() == pytest.approx(1)
    assert speed_ratio(codec_like(exact), exact).nanmedian().item() == pytest.approx(1, abs=0.1)
    late = poses.clone()
    late[:, :, :3] = (late[:, :1, :3] + late[:, :, :3]) / 2  # the same way at half the speed
    assert speed_ratio(render_flights(own, list(late[:, :8])), exact).nanmedian().item() == pytest.approx(0.5, abs=0.12)


def test_plain_pictures_give_no_speed() -> None:
    assert (pace(torch.full((2, 4, 3, 64, 64), 0.3)).sure <= SURE_OF_SPEED).all()
    video = torch.full((1, 4, 3, 64, 64), 0.3)
    assert speed_ratio(video, video).isnan().all()
