"""Equals diffusers' WanTransformer3DModel with one timestep per token: tests/models/wan22/test_token_dit.py.

Wan2.2 TI2V passes its first picture as a clean frame among noisy ones: tokens at timestep 0 beside tokens at t. Its
weights have Wan2.1's names and meaning, with 48 latent channels.
"""

from __future__ import annotations

import torch
from torch import Tensor

from adastate.models.wan.dit import DiT


class TokenDiT(DiT):
    """Takes timesteps `[B]`, one per frame `[B, F]`, or one per token `[B, F, h, w]` over the grid of patches.

    Blocks modulate by frame; if every token has its own timestep, each token is passed to them as a frame of one token.
    """

    def _time(self, t: Tensor, batch_frames: torch.Size, actions: Tensor | None = None) -> Tensor:
        if t.dim() < 4:
            return super()._time(t, batch_frames, actions)
        each, frames = t.flatten(1), t.shape[1]
        if self.split is not None:
            each = self.split.own(each, frames)
        if actions is not None:
            actions = actions.expand(*t.shape[:2], -1).repeat_interleave(each.shape[1] // frames, 1)
        return super()._time(each, each.shape, actions)
