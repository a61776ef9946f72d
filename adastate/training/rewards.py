"""Rewards of decoded video for reward-weighted distillation; any callable of the same form can stand in."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from adastate import metrics


class MotionReward:
    """How much a clip changes from frame to frame, relative to its contrast: needs no download.

    Flicker moves nothing, and would be rewarded as well; so what comes back in the frame after next is taken off.

    Args:
        scale: of the reward; real flights of the tiny world change by about 0.3.
    """

    def __init__(self, scale: float = 1.0) -> None:
        self.scale = scale

    @torch.no_grad()
    def __call__(self, video: Float[Tensor, "B T 3 h w"]) -> Float[Tensor, " B"]:
        once, twice = metrics.change(video, 1), metrics.change(video, 2)
        return self.scale * torch.minimum(once, twice)
