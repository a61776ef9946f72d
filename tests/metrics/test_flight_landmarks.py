"""Balloons are found in unseen flights: their bearing, their colour, and where none is."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest
import torch
from torch import Tensor

from adastate.metrics.flight_landmarks import FOUND, spotted
from datamodules.worlds.flight.atmosphere import TIMES
from datamodules.worlds.flight.camera_path import KEYS, path
from datamodules.worlds.flight.landmarks import COLOURS, sight
from datamodules.worlds.flight.voxel_render import pictures, render
from datamodules.worlds.flight.voyages import Rules, Voyage, voyage
from tests.support.flight_clips import Flown, codec_like, flown

CLEAR = 12
"""Pixels of a balloon that ought to be found."""


def painted(flight: Voyage) -> Tensor:
    """The landmarks' colours in the flight's light `[K, 3]`."""
    tone = TIMES[flight.time]
    light = (0.6 * torch.tensor(tone.sun) + torch.tensor(tone.shade) + 0.12).clamp(max=1)
    return torch.tensor(list(COLOURS.values())) * light


@dataclass(frozen=True)
class _Marked:
    """Flights with balloons, the same without, and how many pixels `[B, T]` the balloons take."""

    full: Flown
    bare: Tensor
    pixels: Tensor
    colours: Tensor


@pytest.fixture(scope="module")
def marked() -> _Marked:
    full = flown(100, 64, 2, landmark="hot-air balloons")
    bare = render([replace(v, landmark="nothing else") for v in full.flights], full.poses)
    pixels = ((full.video - bare).abs().sum(2) > 0.2).sum((2, 3))
    return _Marked(full, bare, pixels, torch.stack([painted(v) for v in full.flights]))


@pytest.mark.parametrize(
    ("worse", "share", "degrees", "false"), [(False, 0.70, 0.2, 0.2), (True, 0.60, 0.3, 0.2)], ids=["exact", "codec"]
)
def test_bearing_and_colour_of_balloons(
    marked: _Marked, worse: bool, share: float, degrees: float, false: float
) -> None:
    seen = spotted(codec_like(marked.full.video) if worse else marked.full.video, marked.colours)
    errors, coloured, asked, elsewhere = [], 0, 0, 0
    for b, flight in enumerate(marked.full.flights):
        truth = sight(flight, marked.full.poses[b])
        for t in (marked.pixels[b] >= CLEAR).nonzero()[:, 0].tolist():
            asked += 1
            if seen.score[b, t] < FOUND:
                continue
            off = (truth.bearing[t] - seen.bearing[b, t]).abs().masked_fill(truth.ahead[t] < 6, torch.inf)
            if torch.rad2deg(off.min()) > 3:
                elsewhere += 1
                continue
            errors.append(float(torch.rad2deg(off.min())))
            coloured += int(truth.colour[off.argmin()] == seen.colour[b, t])
    assert asked > 250 and len(errors) > share * asked
    assert torch.tensor(errors).median() < degrees
    assert coloured > 0.87 * len(errors)
    assert elsewhere < 0.15 * len(errors)
    none = spotted(codec_like(marked.bare) if worse else marked.bare, marked.colours)
    assert (none.score > FOUND).float().mean() < false, "red rocks and blue lakes are taken for balloons at times"


def test_exposure_contrast_and_a_mirror_change_nothing_else(marked: _Marked) -> None:
    video = marked.full.video[:8, :3]
    seen, dim = spotted(video, marked.colours[:8]), spotted(video * 0.5 - 0.1, marked.colours[:8])
    assert torch.allclose(dim.bearing, seen.bearing, atol=1e-4) and torch.equal(dim.colour, seen.colour)
    assert torch.allclose(dim.score, seen.score / 2, atol=1e-4)
    mirror = spotted(video.flip(-1), marked.colours[:8])
    assert torch.allclose(mirror.bearing, -seen.bearing, atol=1e-3)


def test_a_painted_disc_is_where_it_is_and_grey_is_nothing() -> None:
    y, x = torch.meshgrid(torch.arange(64), torch.arange(64), indexing="ij")
    disc = ((x - 40) ** 2 + (y - 20) ** 2 < 9).float()
    grey = torch.full((3, 64, 64), 0.5)
    colours = torch.tensor(list(COLOURS.values()))
    for i, paint in enumerate(colours):
        picture = torch.lerp(grey, paint[:, None, None].expand(3, 64, 64), disc) * 2 - 1
        seen = spotted(picture[None, None], colours[None])
        assert seen.colour.item() == i and seen.score.item() > 2 * FOUND
        assert seen.row.item() == pytest.approx(20, abs=0.05)
        assert seen.bearing.item() == pytest.approx(torch.atan(torch.tensor(8.5 * 1.4 / 64)).item(), abs=1e-3)
    assert spotted(grey[None, None], colours[None]).score.item() < 0.01


def test_landmarks_are_back_after_a_look_behind_at_their_bearing_and_in_their_colour() -> None:
    hover, back = (torch.tensor([[float(key in keys) for key in KEYS]]) for keys in ("ws", "wsjl"))
    actions = torch.cat([hover.repeat(8, 1), back.repeat(7, 1), hover.repeat(7, 1)])
    found = 0
    for index in range(24):
        flight = voyage(200, index, Rules(), weather="clear sky", landmark="hot-air balloons")
        poses = path(flight, actions)
        seen = spotted(pictures(flight, poses[[23, 35, 65]])[None], painted(flight)[None])
        score, bearing, colour = seen.score[0], torch.rad2deg(seen.bearing[0]), seen.colour[0]
        if score[0] < 1.5 * FOUND:
            continue
        found += 1
        assert abs(float(bearing[2] - bearing[0])) < 0.3 and colour[2] == colour[0]
        assert score[1] < FOUND or abs(float(bearing[1] - bearing[0])) > 0.3, "behind there are others"
    assert found >= 8
