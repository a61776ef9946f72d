"""Landmarks in a picture: their bearing, size and colour.

A small convolutional network classifies every pixel as one colour of landmark or none;
`python -m datamodules.tools.fit_flight_scene landmarks` trains its weights on rendered flights.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as nnf

from adastate.metrics.flight_pose import VIEW
from adastate.metrics.flight_scene import scene_weights

BALLOONS, TOWERS = 5, 4
"""Colours of each kind, in the world's order; a balloon's last colour is that of the drifting balloon. In the network's
output they follow the class of everything that is not a landmark."""

PREFIX = "landmark_"
"""Prefix of the network's names among the stored weights."""

FOUND = 7.0
"""Minimum number of pixels for a landmark to count as present."""

SOFT, FIRST, LARGEST = 2.0, 4.5, 16.0
"""In pixels at a width of 64: standard deviation of the blur whose peak is the landmark's position, and the initial and
maximum radius around it."""


Finder = Mapping[str, Float[Tensor, "..."]]
"""Weights of the network, by layer name."""


@dataclass(frozen=True)
class Spotted:
    """The most prominent landmark of each picture, `[B, T]` each.

    Attributes:
        score: expected number of its pixels, at a width of 64; above `FOUND` it is present.
        bearing: radians to the right of the middle of the view.
        row: in pixels from the top.
        colour: index among the world's colours.
    """

    score: Float[Tensor, "B T"]
    bearing: Float[Tensor, "B T"]
    row: Float[Tensor, "B T"]
    colour: Int[Tensor, "B T"]


def blurred(x: Float[Tensor, "N C h w"], deviation: float) -> Float[Tensor, "N C h w"]:
    """Blurs with a Gaussian of `deviation` pixels; borders are repeated."""
    reach = math.ceil(2.5 * deviation)
    bell = torch.exp(-torch.arange(-reach, reach + 1).square() / (2 * deviation**2)).to(x)
    bell = (bell / bell.sum()).expand(x.shape[1], 1, 1, -1)
    padded = nnf.pad(x, (reach,) * 4, mode="replicate")
    return nnf.conv2d(nnf.conv2d(padded, bell, groups=x.shape[1]), bell.transpose(2, 3), groups=x.shape[1])


def marked(light: Float[Tensor, "N 3 h w"], finder: Finder) -> Float[Tensor, "N K h w"]:
    """Logits of the classes of each pixel.

    Args:
        light: pictures in [0, 1]. Brightness is normalised by the picture's mean and standard deviation, so that
            exposure and contrast have no influence, except through saturated pixels.
        finder: weights; three levels down, each at half the resolution, and up again.
    """
    grey = light.mean(1).flatten(1)
    mean, deviation = (part[:, None, None, None] for part in (grey.mean(1), grey.std(1)))

    def conv(name: str, x: Tensor, stride: int = 1) -> Tensor:
        kernel = finder[name]
        edge = (kernel.shape[-1] - 1) // 2
        return nnf.conv2d(nnf.pad(x, (edge,) * 4, mode="replicate"), kernel, finder[f"{name}_bias"], stride)

    def up(x: Tensor) -> Tensor:
        return nnf.interpolate(x, scale_factor=2, mode="bilinear")

    full = nnf.silu(conv("full", (light - mean) / (deviation + 0.05)))
    half = nnf.silu(conv("half", full, 2))
    quarter = nnf.silu(conv("quarter", half, 2))
    quarter = quarter + nnf.silu(conv("deep", quarter))
    half = nnf.silu(conv("half_up", torch.cat([half, up(quarter)], 1)))
    return conv("out", nnf.silu(conv("full_up", torch.cat([full, up(half)], 1))))


@lru_cache(maxsize=1)
def bundled_finder() -> Finder:
    """The bundled weights of the network."""
    mine = {k.removeprefix(PREFIX): v for k, v in scene_weights().items() if k.startswith(PREFIX)}
    return {name: torch.from_numpy(value.astype(np.float32)) for name, value in mine.items()}


def spotted(
    video: Float[Tensor, "B T 3 h w"],
    towers: bool = False,
    view: float = VIEW,
    finder: Finder | None = None,
) -> Spotted:
    """The most prominent balloon, or tower, of each picture.

    Its position is the mean of its pixels (for a tower, of the visible part), its colour that of most of them.

    Args:
        finder: weights of `marked`; None: the bundled ones.
    """
    b, t, _, h, w = video.shape
    finder = bundled_finder() if finder is None else finder
    light = (video.flatten(0, 1).float().cpu() + 1) / 2
    share = torch.cat([marked(part, finder).softmax(1) for part in light.split(64)])
    share = share[:, 1 + BALLOONS :] if towers else share[:, 1 : 1 + BALLOONS]
    scale, whole = w / 64, share.sum(1)
    rows, columns = torch.arange(h)[:, None], torch.arange(w)
    peak = blurred(whole[:, None], SOFT * scale).flatten(1).argmax(1)
    y, x = (peak // w).float(), (peak % w).float()
    radius = torch.full_like(y, FIRST * scale)
    inside = total = whole
    for _ in range(3):  # recentre on it and adapt the radius
        away = (rows - y[:, None, None]).square() + (columns - x[:, None, None]).square()
        inside = whole * (away <= radius.square()[:, None, None])
        total = inside.sum((1, 2))
        y, x = ((inside * line).sum((1, 2)) / total.clamp(min=1e-9) for line in (rows, columns))
        radius = (1.5 * (total / math.pi).sqrt() + 2 * scale).clamp(max=LARGEST * scale)
    colour = (share * (inside > 0)[:, None]).sum((2, 3)).argmax(1)
    bearing = torch.atan((x + 0.5 - w / 2) * view / w)
    return Spotted(*(part.view(b, t) for part in (total / scale**2, bearing, y, colour)))
