"""Colours of a clip. A hue is given in turns, 0 to 1: the direction of a colour in the chroma plane."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor


def ground(video: Float[Tensor, "B T 3 h w"], colours: Float[Tensor, "colours 3"]) -> Int[Tensor, " B"]:
    """Index of the colour nearest to each clip's median colour."""
    median = video.movedim(2, -1).flatten(1, 3).median(1).values
    return (median[:, None] - colours[None].to(median)).square().sum(-1).argmin(1)


def saturation(video: Float[Tensor, "B T 3 h w"]) -> Float[Tensor, " B"]:
    """Difference between the largest and the smallest colour channel, mean over the clip."""
    return (video.amax(2) - video.amin(2)).mean((1, 2, 3))


def hue(colour: Float[Tensor, "*shape 3"]) -> Float[Tensor, "*shape"]:
    """Hue of colours, independent of brightness and saturation."""
    angle = torch.arange(3, device=colour.device) * (2 * math.pi / 3)
    x, y = (colour * angle.cos()).sum(-1), (colour * angle.sin()).sum(-1)
    return torch.atan2(y, x) / (2 * math.pi) % 1.0


def ground_hue(
    video: Float[Tensor, "B T 3 h w"], margin: float = 0.15, strength: float = 0.0, middle: int | None = None
) -> Float[Tensor, "B T"]:
    """Hue of the ground in every picture: of the pixels less than `margin` brighter than the median.

    Args:
        strength: minimum distance of their mean colour from grey; nan below it.
        middle: side of the central square that is used; None for the whole view. Where hues change within the view, the
            mean over all of it is pale.
    """
    if middle is not None:
        top, left = ((side - middle) // 2 for side in video.shape[-2:])
        video = video[..., top : top + middle, left : left + middle]
    pixels = video.flatten(3).transpose(2, 3)  # [B, T, P, 3]
    brightness = pixels.mean(-1)
    ground_ = (brightness < brightness.median(-1, keepdim=True).values + margin)[..., None]
    mean = (pixels * ground_).sum(2) / ground_.sum(2).clamp_min(1)
    from_grey = (mean - mean.mean(-1, keepdim=True)).norm(dim=-1)
    return torch.where(from_grey >= strength, hue(mean), math.nan)


def bright_hue(
    video: Float[Tensor, "B T 3 h w"], above: float = 0.3, strength: float = 0.42, least: int = 8
) -> Float[Tensor, "B T"]:
    """Hue of the bright, coloured pixels in every picture; nan if there are fewer than `least`.

    Args:
        above: minimum brightness of a pixel, the mean of its channels.
        strength: minimum distance of its colour from grey; excludes white and its blends with the ground.
    """
    pixels = video.flatten(3).transpose(2, 3)
    grey = pixels.mean(-1, keepdim=True)
    counts = (grey > above) & ((pixels - grey).norm(dim=-1, keepdim=True) > strength)
    found = hue((pixels * counts).sum(2))
    return torch.where(counts.sum((2, 3)) >= least, found, math.nan)


def turned(hues: Float[Tensor, "B T"]) -> Float[Tensor, "B T"]:
    """Turns since the first picture, including full laps: each step is taken the shorter way round."""
    step = (hues[:, 1:] - hues[:, :-1] + 0.5) % 1.0 - 0.5
    return torch.cat([torch.zeros_like(hues[:, :1]), step.cumsum(1)], 1)


def apart(a: Float[Tensor, "*#shape"], b: Float[Tensor, "*#shape"]) -> Float[Tensor, "*#shape"]:
    """Distance between two hues the shorter way round, in turns, 0 to 0.5."""
    return ((a - b + 0.5) % 1.0 - 0.5).abs()
