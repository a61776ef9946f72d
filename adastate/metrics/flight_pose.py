"""Camera motion of a flight, measured from its pictures: tilt of the horizon and turn between successive pictures.

Angles are in radians, positive to the right: a bank to the right, a turn to the right. `view` is the width of the view
at a distance of 1. Pictures may be sheared or rotated by a bank; the two differ by less than the measurement error.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as nnf

VIEW = 1.4
"""View of the flight world: 70 degrees."""

LEVEL = -0.17
"""Pitch of the flight world's level flight."""

ARM, ROUGH = 8, 0.02
"""For the candidate lines of the horizon's direction: half their length in pixels; and a squared difference (of
pictures in [-1, 1]) so small that it may be noise."""


def _peak(scores: Tensor) -> tuple[Tensor, Tensor]:
    """Position of the largest score, interpolated by a parabola through three samples, and the fall to its neighbours.

    `scores` is `[..., n]`; the results lack the last axis.
    """
    best = scores.argmax(-1).clamp(1, scores.shape[-1] - 2)
    left, top, right = (scores.gather(-1, (best + step)[..., None])[..., 0] for step in (-1, 0, 1))
    fall = (2 * top - left - right).clamp(min=1e-9)
    return best + (0.5 * (right - left) / fall).clamp(-0.5, 0.5), fall


def tilt(video: Float[Tensor, "B T 3 h w"], most: float = 0.45, step: float = 0.025) -> Float[Tensor, "B T"]:
    """Bank of the camera at each picture, within `most`.

    Sky, haze and horizon have constant colours along the horizon's direction. The chosen slope is the one along which
    the upper two thirds of the picture change least over `2 ARM` pixels, relative to the change across it, in a mean of
    low power, so that steep features (a slope of land, a landmark) have little influence.
    """
    height = video.shape[-2]
    smooth = nnf.avg_pool2d(video.flatten(0, 1), (5, 7), 1)
    rows, wide, tall = round(0.6 * height), smooth.shape[-1], smooth.shape[-2]
    down = nnf.pad(smooth[..., 2:, :] - smooth[..., :-2, :], (0, 0, 1, 1), mode="replicate")
    power = down[..., :rows, ARM:-ARM].square().sum(1) + ROUGH
    x, y = torch.linspace(-1, 1, wide), torch.linspace(-1, 1, tall)[:rows, None]

    def end(slope: float, arm: int) -> Tensor:
        """The pixels `arm` pixels to the right, along a line that rises by `slope`."""
        place = torch.stack(torch.broadcast_tensors(x[ARM + arm : wide - ARM + arm], y - slope * arm * 2 / (tall - 1)))
        at = place.movedim(0, -1).expand(len(smooth), -1, -1, -1).to(smooth)
        return nnf.grid_sample(smooth, at, padding_mode="border", align_corners=True)

    slopes = torch.arange(-most, most + step / 2, step)
    change = [(end(s, ARM) - end(s, -ARM)).square().sum(1) / ARM**2 for s in slopes.tolist()]
    still = [(c / power + 1e-5).pow(0.1).mean((-1, -2)) for c in change]
    place, _ = _peak(-torch.stack(still, -1))
    return torch.atan(place * step - most).view(video.shape[:2])


@dataclass(frozen=True)
class Turning:
    """Turn of the view between successive pictures.

    Attributes:
        rate: radians per picture `[B, T-1]`, positive to the right; includes turns of the head.
        sure: how much better one shift fits than its neighbours, over what it leaves unexplained `[B, T-1]`; above
            `SURE` the rate is reliable. 0 where a picture is symmetric under half a turn, as the walls of a tunnel are
            and land below a sky never is: such pictures show no turn.
    """

    rate: Float[Tensor, "B T"]
    sure: Float[Tensor, "B T"]


SURE = 0.02

FAINT = 0.01
"""Standard deviation of the distant part's brightness below which there is nothing to match."""

REFLECTED = 0.65
"""Correlation of a picture with its half-turn reflection above which no turn is measured."""

LOWEST, ROWS = -0.2, 32
"""Tangent of the elevation below which land counts as near, and number of rows from there to the top."""


def cylinder(
    video: Float[Tensor, "B T 3 h w"],
    tilts: Float[Tensor, "B T"],
    view: float = VIEW,
    columns: int = 128,
    rows: int = 26,
    low: float = -0.08,
    high: float = 0.42,
) -> tuple[Float[Tensor, "B T 3 rows columns"], Float[Tensor, "B T 1 rows columns"]]:
    """The distant part of each picture unrolled, so that a turn is a plain shift, and which of it was in view (0 or 1).

    Columns are equal steps of bearing over the whole view, rows of the elevation's tangent from `high` down to `low`;
    the bank is removed, pitch is assumed to be that of level flight.
    """
    half = math.atan(view / 2)
    bearing = (torch.arange(columns) + 0.5) / columns * 2 * half - half
    rise = torch.linspace(high, low, rows)[:, None] / bearing.cos()
    u = bearing.tan().expand(rows, columns)
    v = rise - math.tan(LEVEL) + tilts.tan()[..., None, None] * u
    ratio = video.shape[-1] / video.shape[-2]
    at = torch.stack([(u * 2 / view).expand_as(v), -v * 2 / view * ratio], -1)
    unrolled = nnf.grid_sample(
        video.flatten(0, 1), at.flatten(0, 1), padding_mode="border", align_corners=False
    ).unflatten(0, video.shape[:2])
    return unrolled, (at.abs().amax(-1) < 0.98).float()[:, :, None]


def turning(video: Float[Tensor, "B T 3 h w"], view: float = VIEW, most: float = 0.5) -> Turning:
    """Turn per picture, from the shift of distant things: sky, clouds, sun and the land at the horizon.

    Without features (haze, a plain sky over a level sea) any shift fits; `Turning.sure` shows this.
    """
    far, seen = cylinder(video, tilt(video), view, rows=ROWS, low=LOWEST)
    likeness, width = best_match(far, seen, (9, 41), most, view, rise=2)
    place, fall = _peak(likeness)
    reach = likeness.shape[-1] // 2
    sure = fall / (1 - likeness.amax(-1)).clamp(min=1e-3)
    blind = reflected(video) > REFLECTED
    return Turning((place - reach) * width, sure.masked_fill(blind[:, 1:] | blind[:, :-1], 0))


def reflected(video: Float[Tensor, "B T 3 h w"]) -> Float[Tensor, "B T"]:
    """Correlation of each picture with itself rotated by half a turn; 0 for a plain one."""
    grey = video.mean(2)
    off = grey - grey.mean((-1, -2), keepdim=True)
    return (off * off.flip((-1, -2))).sum((-1, -2)) / off.square().sum((-1, -2)).clamp(min=1e-3)


def best_match(
    far: Float[Tensor, "B T 3 rows columns"],
    seen: Float[Tensor, "B T 1 rows columns"],
    around: tuple[int, int],
    most: float,
    view: float = VIEW,
    rise: int = 0,
) -> tuple[Float[Tensor, "B T-1 shifts"], float]:
    """Similarity of successive pictures of a `cylinder` at each turn, and the radians between neighbouring turns.

    The cosine of what both show, each minus its mean over `around` (rows and columns, odd), maximised over shifts of up
    to `rise` rows up or down. The middle turn is 0; turns go to `most` radians on both sides.
    """
    columns = far.shape[-1]
    middle = (around[0] // 2, around[1] // 2)
    mean = nnf.avg_pool2d((far * seen).flatten(0, 2), around, 1, middle, count_include_pad=False)
    share = nnf.avg_pool2d(seen.flatten(0, 2), around, 1, middle, count_include_pad=False)
    relief = (far - mean.view(far.shape) / share.view(seen.shape).clamp(min=0.05)) * seen
    width = 2 * math.atan(view / 2) / columns
    reach = min(round(most / width), columns // 2)
    square = relief.square().sum(2, keepdim=True)
    found = []
    for lift in range(-rise, rise + 1):
        early, late = (slice(max(0, s), far.shape[-2] + min(0, s)) for s in (lift, -lift))
        a, power = ((x[:, :-1, :, early], x[:, 1:, :, late]) for x in (relief, square))
        in_a, in_b = seen[:, :-1, :, early], seen[:, 1:, :, late]
        norm = _matched(power[0], in_b, reach) * _matched(in_a, power[1], reach)
        faint = FAINT**2 * 3 * _matched(in_a, in_b, reach)
        found.append(_matched(*a, reach) / (norm.clamp(min=0).sqrt() + faint).clamp(min=1e-6))
    return torch.stack(found).amax(0), width


def _matched(early: Tensor, late: Tensor, reach: int) -> Tensor:
    """Sums over `[B, T, C, rows, columns]` of `early` at column c + k times `late` at c, `[B, T, 2 reach + 1]`."""
    n = 2 * early.shape[-1]
    product = (torch.fft.rfft(early, n) * torch.fft.rfft(late, n).conj()).sum((2, 3))
    sums = torch.fft.irfft(product, n)
    return torch.cat([sums[..., n - reach :], sums[..., : reach + 1]], -1)
