"""Equals nn.Linear without gradient, in FP8 up to its rounding: tests/models/test_linear.py.

One matrix product with bias, in the dtype of the pass or in FP8.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

FP8 = torch.float8_e4m3fn
LARGEST = torch.finfo(FP8).max
ALIGNED = 16
"""FP8 products on GPUs need both sides of a weight to be a multiple of this."""


class Linear(NamedTuple):
    """One layer, or several concatenated.

    Attributes:
        bias: `[out]`.
        weight: `[in, out]`, as addmm takes it; in FP8 divided by `scale`.
        scale: `[1, out]` float32, of a weight in FP8.
    """

    bias: Tensor
    weight: Tensor
    scale: Tensor | None = None

    def after(self, outputs: int) -> Linear:
        """The same without its first outputs."""
        scale = self.scale if self.scale is None else self.scale[:, outputs:]
        return Linear(self.bias[outputs:], self.weight[:, outputs:], scale)


def apply(x: Tensor, layer: Linear) -> Tensor:
    """`[L, in]` to `[L, out]`. In FP8 each token is scaled by the largest of its own values, and rounded."""
    if layer.scale is None:
        return torch.addmm(layer.bias, x, layer.weight)
    # Seven operations over all tokens take longer than FP8 saves; fused, they read the tokens once.
    values, scale = _fused()(x) if x.is_cuda and not torch.compiler.is_compiling() else _rounded(x)
    return torch._scaled_mm(
        values,
        layer.weight,
        scale,
        layer.scale,
        bias=layer.bias,
        out_dtype=x.dtype,
        use_fast_accum=x.is_cuda,
    )


def in_fp8(layer: Linear) -> Linear:
    """The layer with its weight in FP8, each output scaled by the largest of its own weights.

    Raises:
        ValueError: FP8 products do not support its sizes.
    """
    if any(n % ALIGNED for n in layer.weight.shape):
        raise ValueError(
            f"fp8 needs widths that are multiples of {ALIGNED}; a layer of this network is "
            f"{layer.weight.shape[0]} x {layer.weight.shape[1]}: leave fp8 out"
        )
    rows, scale = _rounded(layer.weight.t())
    return Linear(layer.bias, rows.t(), scale.t())


def check_fp8(dtype: torch.dtype, device: torch.device) -> None:
    """Raises ValueError if there are no FP8 products for passes in `dtype` on this device."""
    if dtype != torch.bfloat16:
        raise ValueError(f"fp8 needs passes in bfloat16, but these are in {dtype}: set compute_dtype: bfloat16")
    if device.type == "cuda" and torch.cuda.get_device_capability(device) < (8, 9):
        raise ValueError(f"{torch.cuda.get_device_name(device)} has no FP8 products (Ada, Hopper and later have)")


@lru_cache(maxsize=1)
def _fused() -> Callable[[Tensor], tuple[Tensor, Tensor]]:
    return torch.compile(_rounded, dynamic=False)


def _rounded(rows: Tensor) -> tuple[Tensor, Tensor]:
    """(values in FP8 `[n, in]`, factors by which to multiply each row `[n, 1]`)."""
    rows = rows.float()
    scale = rows.abs().amax(1, keepdim=True).clamp_min(1e-12) / LARGEST
    return (rows / scale).clamp(-LARGEST, LARGEST).to(FP8).contiguous(), scale
