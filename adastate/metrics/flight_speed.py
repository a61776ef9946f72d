"""How fast a camera flies, read off the ground that comes towards it, against the exact render of the same flight."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as nnf

from adastate.metrics.flight_pose import FAINT, LEVEL, VIEW, _peak, tilt, turning

SURE_OF_SPEED = 0.05
"""`Pace.sure` from which a pace may be trusted."""

NEAREST_ROW, FARTHEST_ROW, ROWS_OF_GROUND = 0.75, 0.2, 28
"""Tangents of the angles below the horizon between which ground is looked at, and rows between them."""


@dataclass(frozen=True)
class Pace:
    """Of each picture and the next.

    Attributes:
        rate: way flown over the height above the ground, a picture `[B, T-1]`.
        sure: how sharply one pace fits better than others, over what it leaves unexplained `[B, T-1]`; it may be
            trusted above `SURE_OF_SPEED`. 0 where the turn, which must be known first, is not.
    """

    rate: Float[Tensor, "B T"]
    sure: Float[Tensor, "B T"]


def pace(video: Float[Tensor, "B T 3 h w"], view: float = VIEW, most: float = 0.4, step: float = 0.02) -> Pace:
    """Speed over a level ground, for a camera that looks where it flies.

    What lies at a tangent y below the horizon is 1/y heights away, and after a way of s heights at y / (1 - s y). Of
    all s that one is taken by which the later picture, its bank and its turn taken out, is most like the earlier one.
    Hills change the scale (what is near counts for more), and a camera that looks aside sees another motion: so
    compare with the same measure of the exact render.
    """
    banks, turns = tilt(video), turning(video, view)
    u = torch.linspace(-0.45, 0.45, 36) * view
    y = torch.linspace(FARTHEST_ROW, NEAREST_ROW, ROWS_OF_GROUND)[:, None]
    ones = torch.ones(ROWS_OF_GROUND, len(u))
    early, seen = _ground(video[:, :-1], banks[:, :-1], u * ones, y * ones, view)
    sin, cos = (f(turns.rate)[..., None, None] for f in (torch.sin, torch.cos))
    side, ahead = (u * cos - sin) / y, (u * sin + cos) / y
    fits = []
    paces = torch.arange(-2 * step, most + step / 2, step)
    for s in paces.tolist():
        left = (ahead - s).clamp(min=0.3)
        late, also = _ground(video[:, 1:], banks[:, 1:], side / left, 1 / left, view)
        fits.append(_likeness(early, late, seen * also))
    likeness = torch.stack(fits, -1)
    place, fall = _peak(likeness)
    sure = fall / (1 - likeness.amax(-1)).clamp(min=1e-3)
    return Pace((place - 2) * step, sure.masked_fill(turns.sure <= 0, 0))


def _ground(video: Tensor, banks: Tensor, u: Tensor, y: Tensor, view: float) -> tuple[Tensor, Tensor]:
    """Pictures `[B, T, 3, rows, columns]` where u is to the right and y below the horizon, and what was in view."""
    v = banks.tan()[..., None, None] * u - y - math.tan(LEVEL)
    at = torch.stack(torch.broadcast_tensors(u * 2 / view, -v * 2 / view * video.shape[-1] / video.shape[-2]), -1)
    at = at.expand(*video.shape[:2], *at.shape[-3:])
    drawn = nnf.grid_sample(video.flatten(0, 1), at.flatten(0, 1), padding_mode="border", align_corners=False)
    return drawn.unflatten(0, video.shape[:2]), (at.abs().amax(-1) < 0.98).float()[:, :, None]


def _likeness(early: Tensor, late: Tensor, seen: Tensor) -> Tensor:
    """Cosine of the reliefs of what both show, `[B, T]`."""
    share = nnf.avg_pool2d(seen.flatten(0, 2), 9, 1, 4, count_include_pad=False).view(seen.shape).clamp(min=0.05)

    def relief(x: Tensor) -> Tensor:
        mean = nnf.avg_pool2d((x * seen).flatten(0, 2), 9, 1, 4, count_include_pad=False).view(x.shape)
        return (x - mean / share) * seen

    a, b = relief(early), relief(late)
    norm = (a.square().sum((2, 3, 4)) * b.square().sum((2, 3, 4))).sqrt()
    return (a * b).sum((2, 3, 4)) / (norm + FAINT**2 * 3 * seen.sum((2, 3, 4))).clamp(min=1e-6)


def speed_ratio(
    video: Float[Tensor, "B T 3 h w"], exact: Float[Tensor, "B T 3 h w"], view: float = VIEW
) -> Float[Tensor, " B"]:
    """Speed of each clip over that of the exact render of the same flight; nan where nothing is sure.

    The ratio of the sums over the pictures at which both measures may be trusted.
    """
    made, true = pace(video, view), pace(exact, view)
    both = ((made.sure > SURE_OF_SPEED) & (true.sure > SURE_OF_SPEED)).float()
    way = (true.rate * both).sum(1)
    return torch.where(way > 0.05, (made.rate * both).sum(1) / way.clamp(min=0.05), torch.nan)
