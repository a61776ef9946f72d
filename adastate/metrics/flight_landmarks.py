"""Coloured landmarks in a picture: in which direction they stand and which colour they have."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as nnf

from adastate.metrics.flight_pose import VIEW

FOUND = 0.10
"""Score from which a landmark is taken to be there."""

INNER, OUTER, NEAR = 1.0, 3.5, 4.5
"""Pixels at a width of 64: deviations of the two blurs whose difference shows blobs, and the reach of one."""


@dataclass(frozen=True)
class Spotted:
    """The most striking landmark of each picture, `[B, T]` each.

    Attributes:
        score: strength of its colour against what surrounds it; above `FOUND` it is there.
        bearing: radians to the right of the middle of the view.
        row: in pixels from the top.
        colour: number among the colours asked for.
    """

    score: Float[Tensor, "B T"]
    bearing: Float[Tensor, "B T"]
    row: Float[Tensor, "B T"]
    colour: Int[Tensor, "B T"]


def blurred(x: Float[Tensor, "N C h w"], deviation: float) -> Float[Tensor, "N C h w"]:
    """By a Gaussian of `deviation` pixels; borders are repeated."""
    reach = math.ceil(2.5 * deviation)
    bell = torch.exp(-torch.arange(-reach, reach + 1).square() / (2 * deviation**2)).to(x)
    bell = (bell / bell.sum()).expand(x.shape[1], 1, 1, -1)
    padded = nnf.pad(x, (reach,) * 4, mode="replicate")
    return nnf.conv2d(nnf.conv2d(padded, bell, groups=x.shape[1]), bell.transpose(2, 3), groups=x.shape[1])


def spotted(video: Float[Tensor, "B T 3 h w"], colours: Float[Tensor, "B K 3"], view: float = VIEW) -> Spotted:
    """The most striking blob of one of `colours` in each picture.

    Args:
        colours: as the flight's light shows them, in [0, 1]; only their hue counts, so neither exposure nor contrast
            changes what is found.

    A blob's colour must lie in a cone of 45 degrees about that asked for, in the plane of hue and saturation. Its place
    is the mean of the pixels near its peak, weighted by their score.
    """
    b, t, _, h, w = video.shape
    light = (video.flatten(0, 1) + 1) / 2
    chroma = light - light.mean(1, keepdim=True)
    scale = w / 64
    band = blurred(chroma, INNER * scale) - blurred(chroma, OUTER * scale)
    hue = colours - colours.mean(-1, keepdim=True)
    hue = nnf.normalize(hue, dim=-1).repeat_interleave(t, 0).to(band)
    along = torch.einsum("nkc,nchw->nkhw", hue, band)
    off = (band.square().sum(1, keepdim=True) - along.square()).clamp(min=0).sqrt()
    scores = along - off
    score, peak = scores.flatten(1).max(1)
    colour, row, column = peak // (h * w), peak % (h * w) // w, peak % w
    weight = scores[torch.arange(b * t), colour].clamp(min=0)
    rows, columns = torch.arange(h).to(weight)[:, None], torch.arange(w).to(weight)
    away = (rows - row[:, None, None]).square() + (columns - column[:, None, None]).square()
    weight = weight * (away <= (NEAR * scale) ** 2)
    total = weight.sum((1, 2)).clamp(min=1e-9)
    x, y = (weight * columns).sum((1, 2)) / total, (weight * rows).sum((1, 2)) / total
    bearing = torch.atan((x + 0.5 - w / 2) * view / w)
    return Spotted(*(part.view(b, t) for part in (score, bearing, y, colour)))
