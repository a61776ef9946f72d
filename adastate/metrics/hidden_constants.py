"""Exposure, contrast and grain of a stream: constants of a flight that no prompt states, and nothing restores.

A model has to keep them by itself, so errors accumulate in them, and a stream's drift is measured from its own
beginning. All are functions of pixels alone, in units of video, which is in [-1, 1].
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

CONSTANTS = ("exposure", "contrast_constant", "grain")

EDGE = 0.1
"""Share of a stretch's pictures beyond the quantile that is read, so that a single odd picture has no influence."""

POOL = 4
"""Side of the squares that are averaged, in pixels: the pattern on the lens has mean 0 in each."""


def lens_constants(
    video: Float[Tensor, "B T 3 h w"], horizon: int, pattern: Float[Tensor, "h w"]
) -> dict[str, Float[Tensor, "B n"]]:
    """The three constants in each stretch of `horizon` pictures.

    Exposure is the brightness of the darkest tenth of the pictures, each by its median pixel, so discs, and fog that
    brightens the others, have no influence. Contrast is the distance from grey of the median pixel, in the most
    colourful tenth: fog has no colour. Grain is the mean strength of `pattern` in the pictures.

    Args:
        pattern: the pattern on the lens, of mean 0; it is the same in every flight, but differs in strength.
    """
    stretches = video.unflatten(1, (-1, horizon)) if video.shape[1] % horizon == 0 else None
    if stretches is None:
        raise ValueError(f"{video.shape[1]} pictures are not a multiple of {horizon}: cut the video")
    grey = stretches.mean(3)  # [B, n, T, h, w]
    coarse = torch.nn.functional.avg_pool2d(stretches.flatten(0, 3), POOL).unflatten(0, stretches.shape[:4])
    brightness = coarse.mean(3).flatten(3).median(-1).values
    colour = (coarse - coarse.mean(3, keepdim=True)).norm(dim=3).flatten(3).median(-1).values
    scale = pattern.square().sum().clamp_min(1e-9)
    return {
        "exposure": brightness.quantile(EDGE, dim=2),
        "contrast_constant": colour.quantile(1 - EDGE, dim=2),
        "grain": (grey * pattern).sum((-1, -2)).mean(2) / scale,
    }


def from_beginning(constant: Float[Tensor, "B n"]) -> Float[Tensor, "B n"]:
    """Distance of a constant from its value in the first stretch; nan there."""
    away = (constant - constant[:, :1]).abs()
    return torch.cat([torch.full_like(away[:, :1], float("nan")), away[:, 1:]], 1)
