"""Speed of a camera, measured from the approaching ground, relative to the exact render of the same flight."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as nnf

from adastate.metrics.flight_pose import FAINT, LEVEL, VIEW, _peak, tilt, turning

SURE_OF_SPEED = 0.05
"""`Pace.sure` above which a pace is reliable."""

NEAREST_ROW, FARTHEST_ROW, ROWS_OF_GROUND = 0.75, 0.2, 28
"""Tangents of the angles below the horizon between which ground is used, and number of rows between them."""


@dataclass(frozen=True)
class Pace:
    """Motion between successive pictures.

    Attributes:
        rate: distance flown per picture over the height above the ground, `[B, T-1]`.
        sure: how much better one pace fits than others, over what it leaves unexplained `[B, T-1]`; reliable above
            `SURE_OF_SPEED`. 0 where the turn, which must be known first, is not reliable.
    """

    rate: Float[Tensor, "B T"]
    sure: Float[Tensor, "B T"]


def pace(video: Float[Tensor, "B T 3 h w"], view: float = VIEW, most: float = 0.4, step: float = 0.02) -> Pace:
    """Speed over level ground, for a camera that looks where it flies.

    A point at a tangent y below the horizon is 1/y heights away, and after a distance of s heights at y / (1 - s y).
    The chosen s makes the later picture, with bank and turn removed, most similar to the earlier one. Hills change the
    scale (near ground counts more), and a camera that looks aside sees another motion, so compare with the same measure
    of the exact render.
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
    """Pictures `[B, T, 3, rows, columns]` sampled at u to the right and y below the horizon, and what was in view."""
    v = banks.tan()[..., None, None] * u - y - math.tan(LEVEL)
    at = torch.stack(torch.broadcast_tensors(u * 2 / view, -v * 2 / view * video.shape[-1] / video.shape[-2]), -1)
    at = at.expand(*video.shape[:2], *at.shape[-3:])
    drawn = nnf.grid_sample(video.flatten(0, 1), at.flatten(0, 1), padding_mode="border", align_corners=False)
    return drawn.unflatten(0, video.shape[:2]), (at.abs().amax(-1) < 0.98).float()[:, :, None]


def _likeness(early: Tensor, late: Tensor, seen: Tensor) -> Tensor:
    """Cosine of the reliefs of the commonly visible part, `[B, T]`."""
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
    """Speed of each clip over that of the exact render of the same flight; nan where nothing is reliable.

    The ratio of the sums over the pictures at which both measures are reliable.
    """
    made, true = pace(video, view), pace(exact, view)
    both = ((made.sure > SURE_OF_SPEED) & (true.sure > SURE_OF_SPEED)).float()
    way = (true.rate * both).sum(1)
    return torch.where(way > 0.05, (made.rate * both).sum(1) / way.clamp(min=0.05), torch.nan)
