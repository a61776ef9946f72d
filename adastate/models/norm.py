"""Equals functional.rms_norm followed by rope.rotate, with its own backward: tests/models/test_norm.py.

On a CPU, torch computes a root mean square norm in eight operations, and in bf16 rounds after each of them.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Complex, Float
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as nnf

from adastate.models.activation import widened
from adastate.models.rope import rotate


class RMSNorm(nn.Module):
    """RMS norm over the full width, before the heads are split."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(
        self,
        x: Float[Tensor, "B L D"],
        heads: int,
        table: Complex[Tensor, "L 1 _"] | Float[Tensor, "L 1 _ 2"] | None = None,
    ) -> Float[Tensor, "B L {heads} K"]:
        """Splits into heads, and rotates if a `table` of rotary positions is given."""
        if x.device.type == "cpu" and not torch.compiler.is_compiling():
            return _Norm.apply(x, self.weight, self.eps, heads, table)  # type: ignore[no-any-return, no-untyped-call]
        # On a GPU autocast computes this norm in float32, which would make keys wider than values.
        normed = nnf.rms_norm(x, self.weight.shape, self.weight, self.eps).to(x.dtype).unflatten(-1, (heads, -1))
        return normed if table is None else rotate(normed, table)


def _complex(x: Tensor, heads: int) -> Tensor:
    """Adjacent pairs of every head as complex numbers, `[B, L, N, K/2]`."""
    return torch.view_as_complex(x.reshape(*x.shape[:2], heads, -1, 2))


class _Norm(torch.autograd.Function):
    """With h = x / rms(x): y = R (w h). The table, which all heads share, is divided by the rms."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float, heads: int, table: Tensor | None) -> Tensor:
        f = widened(x)
        square = torch.linalg.vector_norm(f, dim=-1, keepdim=True).square_()
        inverse = square.div_(x.shape[-1]).add_(eps).rsqrt_()
        ctx.save_for_backward(x, weight, inverse, table)
        scaled = f * weight
        if table is None:
            return scaled.mul_(inverse).to(x.dtype).unflatten(-1, (heads, -1))
        turned = _complex(scaled, heads).mul_(table * inverse[..., None])
        return torch.view_as_real(turned).flatten(-2).to(x.dtype)

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, *given: Tensor) -> tuple[Tensor | None, ...]:
        """With u = R^T g: dw = sum u h, dx = (w u - h mean(w u h)) / rms."""
        x, weight, inverse, table = ctx.saved_tensors
        g = given[0].to(inverse.dtype, memory_format=torch.contiguous_format).contiguous()
        if table is None:
            u = g.flatten(-2)
        else:
            u = torch.view_as_real(_complex(g, g.shape[2]) * table.conj_physical()).view(x.shape)
        h = x * inverse
        each = u * h
        w = weight.to(each.dtype)
        mean = (each @ w).div_(x.shape[-1]).unsqueeze(-1)
        dx = (u * w).addcmul_(h, mean, value=-1).mul_(inverse).to(x.dtype) if ctx.needs_input_grad[0] else None
        dw = each.sum((0, 1)).to(weight.dtype) if ctx.needs_input_grad[1] else None
        return dx, dw, None, None, None
