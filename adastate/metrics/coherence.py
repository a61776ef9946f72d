"""Whether a picture follows from the previous one: the part that no motion explains, and changes where chunks meet."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor

from adastate.metrics.motion import _overlap


def spread(video: Float[Tensor, "B T 3 h w"]) -> Float[Tensor, " B"]:
    """Variance over the pixels of a picture, mean over channels and pictures; the unit of the measures below."""
    return video.flatten(3).var(-1).mean((1, 2)).clamp_min(1e-6)


def warp_error(video: Float[Tensor, "B T 3 h w"], reach: int = 3) -> Float[Tensor, "B T-1"]:
    """The difference between successive pictures that no camera motion explains.

    The smallest mean squared difference, over the common area, that a whole-pixel shift within `reach` leaves, divided
    by the clip's `spread`. 0 for a still and for uniform translation; small where objects move by themselves; at most
    2, and somewhat less for unrelated pictures, because the best of many shifts is taken.
    """
    before, after = video[:, :-1], video[:, 1:]
    height, width = video.shape[-2:]
    best = torch.full(before.shape[:2], math.inf, device=video.device)
    for dy in range(-reach, reach + 1):
        for dx in range(-reach, reach + 1):
            a, b = _overlap(before, dx, dy, height, width), _overlap(after, -dx, -dy, height, width)
            best = torch.minimum(best, (a - b).square().mean((2, 3, 4)))
    return best / spread(video)[:, None]


def border_flicker(video: Float[Tensor, "B T 3 h w"], chunk: int) -> Float[Tensor, " B"]:
    """Change between pictures across chunk boundaries, over that within chunks; 1 means no flicker.

    Args:
        chunk: pictures per chunk; the clip begins with the first picture of a chunk.
    """
    change = (video[:, 1:] - video[:, :-1]).abs().mean((2, 3, 4))
    if chunk < 2 or change.shape[1] < chunk:
        raise ValueError(f"{video.shape[1]} pictures in chunks of {chunk}: at least two chunks of 2 or more are needed")
    at_border = (torch.arange(1, video.shape[1]) % chunk == 0).to(video.device)
    return change[:, at_border].mean(1) / change[:, ~at_border].mean(1).clamp_min(1e-6)
