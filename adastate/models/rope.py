"""Rotary positions in time, height and width, as in Wan2.1.

A head's K/2 complex pairs (adjacent entries) are split into time, height and width parts of K/2 - 2(K/6), K/6 and K/6
pairs; each part has its own geometric sequence of frequencies. Angles, cosines and sines are computed in float64: at
index 1000 a float32 angle is off by 1e-4.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from jaxtyping import Complex, Complex64, Float
from torch import Tensor

from adastate.types import Positions

THETA = 10_000.0


def _ladder(dims: int) -> Tensor:
    return THETA ** (-torch.arange(0, dims, 2, dtype=torch.float64) / dims)


@lru_cache(maxsize=256)
@torch.inference_mode(False)  # also used by passes with gradient
def rope_table(
    positions: Positions, height: int, width: int, head_dim: int, rows: int, device: torch.device
) -> Complex64[Tensor, "L 1 {head_dim//2}"]:
    """Unit complex numbers for frames at `positions` of height x width tokens each.

    `rows` bounds the time index, like the table of the pretrained network: larger indices were never trained.
    """
    if head_dim % 2:
        raise ValueError(f"rotary positions need an even head dim, got {head_dim}")
    if positions and not 0 <= min(positions) <= max(positions) < rows:
        raise ValueError(
            f"frame position {max(positions) if max(positions) >= rows else min(positions)} lies outside the {rows} "
            "rows of the RoPE table: use slot positions for long streams, or raise rope_max_frames"
        )
    space = 2 * (head_dim // 6)
    time = head_dim - 2 * space
    ft = torch.tensor(positions, dtype=torch.float64)[:, None] * _ladder(time)
    fh = torch.arange(height, dtype=torch.float64)[:, None] * _ladder(space)
    fw = torch.arange(width, dtype=torch.float64)[:, None] * _ladder(space)
    shape = (len(positions), height, width)
    angle = torch.cat(
        [
            ft[:, None, None].expand(*shape, -1),
            fh[None, :, None].expand(*shape, -1),
            fw[None, None, :].expand(*shape, -1),
        ],
        dim=-1,
    ).reshape(-1, 1, head_dim // 2)
    return torch.polar(torch.ones_like(angle), angle).to(torch.complex64).to(device)


def rotate(
    x: Float[Tensor, "*batch L N K"], table: Complex[Tensor, "L 1 K//2"] | Float[Tensor, "L 1 K//2 2"]
) -> Float[Tensor, "*batch L N K"]:
    """Rotates adjacent pairs (a, b) of every head, as complex numbers, by the angles of their token; in float32.

    The table may also be given as real numbers, cosines and sines, for compilers.
    """
    pairs = x.float().unflatten(-1, (-1, 2))
    if not table.is_complex():
        (a, b), (cos, sin) = pairs.unbind(-1), table.unbind(-1)
        return torch.stack([a * cos - b * sin, a * sin + b * cos], -1).flatten(-2).to(x.dtype)
    return torch.view_as_real(torch.view_as_complex(pairs) * table).flatten(-2).to(x.dtype)
