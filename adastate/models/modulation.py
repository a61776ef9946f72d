"""Modulation of a block's norms and residuals by the timestep and the actions, frame by frame."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as nnf


def modulate(
    x: Float[Tensor, "B L D"], shift: Float[Tensor, "B F D"], scale: Float[Tensor, "B F D"], eps: float
) -> Float[Tensor, "B L D"]:
    """LayerNorm without affine, then (1 + scale) and shift per frame."""
    h = nnf.layer_norm(x, x.shape[-1:], eps=eps).unflatten(1, (shift.shape[1], -1))
    return torch.addcmul(shift[:, :, None], h, 1 + scale[:, :, None]).flatten(1, 2)


def add_gated(
    x: Float[Tensor, "B L D"], y: Float[Tensor, "B L D"], gate: Float[Tensor, "B F D"]
) -> Float[Tensor, "B L D"]:
    """x + gate y with one gate per frame."""
    frames = (gate.shape[1], -1)
    return torch.addcmul(x.unflatten(1, frames), y.unflatten(1, frames), gate[:, :, None]).flatten(1, 2)
