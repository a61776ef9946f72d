"""Appearance of a clip's pictures, independent of what they show."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor


def contrast(video: Float[Tensor, "B T 3 h w"]) -> Float[Tensor, " B"]:
    """Standard deviation over each picture's pixels, mean over the clip."""
    return video.flatten(3).std(-1).mean((1, 2))


def change(video: Float[Tensor, "B T 3 h w"], gap: int = 1) -> Float[Tensor, " B"]:
    """Mean absolute difference of pictures `gap` apart, over the clip's contrast.

    Unlike `displacement` it detects motion of any part of the picture, but also flicker: motion changes more over a
    larger gap, flicker does not. 0 is a still; unrelated pictures score about 1.1.
    """
    return (video[:, gap:] - video[:, :-gap]).abs().mean((1, 2, 3, 4)) / contrast(video).clamp_min(1e-6)


def sharpness(video: Float[Tensor, "B T 3 h w"]) -> Float[Tensor, " B"]:
    """Mean absolute difference of neighbouring pixels."""
    across = (video[..., 1:] - video[..., :-1]).abs().mean((1, 2, 3, 4))
    down = (video[..., 1:, :] - video[..., :-1, :]).abs().mean((1, 2, 3, 4))
    return (across + down) / 2


def nearest(video: Float[Tensor, "B T 3 h w"], others: Float[Tensor, "others _ 3 h w"]) -> Int[Tensor, " B"]:
    """Index of the clip of `others` whose mean picture is nearest to that of each clip."""
    return torch.cdist(video.mean(1).flatten(1), others.mean(1).flatten(1)).argmin(1)


def drift(first: Float[Tensor, " B"], last: Float[Tensor, " B"]) -> Float[Tensor, " B"]:
    """Change of a quality from the first to the last second: |log(last / first)|; 0 is none."""
    return (last.clamp_min(1e-6) / first.clamp_min(1e-6)).log().abs()
