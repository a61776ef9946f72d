"""Balloons are found in unseen flights: their bearing, their colour, and where none is."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import pytest
import torch
from torch import Tensor
from torch.nn import functional as nnf

from adastate.metrics.flight_landmarks import FOUND, spotted
from datamodules.worlds.flight.camera_path import KEYS, path
from datamodules.worlds.flight.landmarks import COLOURS, sight
from datamodules.worlds.flight.voxel_render import render_flight, render_flights
from datamodules.worlds.flight.voyages import Rules, voyage
from tests.support.flight_clips import Flown, codec_like, flown

CLEAR = 12
"""Pixels of a balloon that ought to be found."""

WEATHER = ("clear sky", "scattered clouds")


@dataclass(frozen=True)
class _Marked:
    """Flights with landmarks under skies without haze, the same without, and their pixels `[B, T, 64, 64]`."""

    full: Flown
    bare: Tensor
    mask: Tensor


def with_landmarks(kind: str, lens: bool) -> _Marked:
    half = [flown(100 + i, 24, 3, lens, landmark=kind, weather=w) for i, w in enumerate(WEATHER)]
    full = Flown(
        half[0].flights + half[1].flights,
        *(torch.cat([getattr(h, k)[:, ::2] for h in half]) for k in ("poses", "video")),
    )
    bare = render_flights([replace(v, landmark="nothing else") for v in full.flights], list(full.poses))
    return _Marked(full, bare, (full.video - bare).abs().sum(2) > 0.25)


@pytest.fixture(scope="module", params=[False, True], ids=["plain", "lens"])
def marked(request: pytest.FixtureRequest) -> _Marked:
    return with_landmarks("hot-air balloons", request.param)


def judged(marked: _Marked, video: Tensor, towers: bool = False) -> tuple[Tensor, Tensor, int]:
    """Of the pictures with `CLEAR` pixels of landmarks those in which one is found: errors of its bearing (degrees)
    and whether its colour is right; how many pictures there are."""
    seen = spotted(video, towers)
    near = nnf.max_pool2d(marked.mask.float(), 5, 1, 2)
    errors, coloured, asked = [], [], 0
    for b, flight in enumerate(marked.full.flights):
        truth = sight(flight, marked.full.poses[b])
        for t in (marked.mask[b].sum((1, 2)) >= CLEAR).nonzero()[:, 0].tolist():
            asked += 1
            column = seen.bearing[b, t].tan() * 64 / 1.4 + 31.5
            there = near[b, t, int(seen.row[b, t].round()), int(column.round().clamp(0, 63))]
            if seen.score[b, t] < FOUND or not there:
                continue
            off = (truth.bearing[t] - seen.bearing[b, t]).abs().masked_fill(truth.ahead[t] < 6, torch.inf)
            errors.append(torch.rad2deg(off.min()))
            coloured.append(truth.colour[off.argmin()] == seen.colour[b, t])
    return torch.stack(errors), torch.stack(coloured).float(), asked


@pytest.mark.parametrize(
    ("worse", "share"), [(False, 0.95), pytest.param(True, 0.90, marks=pytest.mark.slow)], ids=["exact", "codec"]
)
@pytest.mark.slow
def test_balloons_are_found_at_their_bearing_in_their_colour(marked: _Marked, worse: bool, share: float) -> None:
    change = codec_like if worse else torch.clone
    errors, coloured, asked = judged(marked, change(marked.full.video))
    assert asked > 150 and len(errors) >= share * asked
    assert errors.median() < 0.3 and coloured.mean() >= 0.95
    assert (spotted(change(marked.bare)).score > FOUND).float().mean() <= 0.05, "where none is"


@pytest.mark.slow
def test_towers_are_found() -> None:
    towers = with_landmarks("white towers", True)
    errors, coloured, asked = judged(towers, towers.full.video, towers=True)
    assert asked > 100 and len(errors) > 0.85 * asked
    assert errors.median() < 0.7 and coloured.mean() > 0.6, "their colour is that of a few pixels at the top"
    assert (spotted(towers.bare, towers=True).score > FOUND).float().mean() < 0.05
    assert (spotted(towers.full.video).score > FOUND).float().mean() < 0.25, "a tower's top may pass for a balloon"


def test_exposure_contrast_and_a_mirror_change_nothing_else(marked: _Marked) -> None:
    video = marked.full.video[:8, :3]
    seen, dim = spotted(video), spotted(video * 0.7 - 0.1)
    there = seen.score > FOUND
    alike = ((dim.bearing - seen.bearing).abs() < 0.005) & (dim.colour == seen.colour)
    assert alike[there].float().mean() > 0.9 and there.any()
    mirror = spotted(video.flip(-1))
    alike = (mirror.bearing + seen.bearing).abs() < 0.01
    assert alike[there].float().mean() > 0.75, "of two that are alike the one or the other"


def test_a_painted_balloon_is_where_it_is_and_a_plain_picture_has_none() -> None:
    y, x = torch.meshgrid(torch.arange(64), torch.arange(64), indexing="ij")
    disc = (((x - 40) / 4) ** 2 + ((y - 20) / 4.6) ** 2 < 1).float()
    overhead, low = torch.tensor([0.17, 0.41, 0.85]), torch.tensor([0.74, 0.86, 0.97])
    sky = torch.lerp(overhead, low, torch.linspace(0, 1, 64)[:, None]).T[:, :, None].expand(3, 64, 64)
    for i, paint in enumerate(COLOURS.values()):
        seen = spotted((torch.lerp(sky, torch.tensor(paint)[:, None, None], disc) * 2 - 1)[None, None])
        assert seen.colour.item() == i and seen.score.item() > FOUND
        assert seen.row.item() == pytest.approx(20, abs=1)
        assert math.degrees(seen.bearing.item()) == pytest.approx(math.degrees(math.atan(8.5 * 1.4 / 64)), abs=0.6)
    for plain in (sky, torch.full((3, 64, 64), 0.5)):
        assert spotted((plain * 2 - 1)[None, None]).score.item() < FOUND


def test_landmarks_are_back_after_a_look_behind_at_their_bearing_and_in_their_colour() -> None:
    hover, back = (torch.tensor([[float(key in keys) for key in KEYS]]) for keys in ("ws", "wsjl"))
    actions = torch.cat([hover.repeat(8, 1), back.repeat(7, 1), hover.repeat(7, 1)])
    found, same = 0, 0
    for index in range(24):
        flight = voyage(200, index, Rules(), weather="clear sky", landmark="hot-air balloons")
        poses = path(flight, actions)
        seen = spotted(render_flight(flight, poses[[23, 35, 65]])[None])
        score, bearing, colour = seen.score[0], torch.rad2deg(seen.bearing[0]), seen.colour[0]
        if score[0] < 2 * FOUND:
            continue
        found += 1
        assert abs(float(bearing[2] - bearing[0])) < 0.3 and colour[2] == colour[0]
        same += int(score[1] > FOUND and abs(float(bearing[1] - bearing[0])) < 0.3 and colour[1] == colour[0])
    assert found >= 8 and same <= 1, "behind there are others"
