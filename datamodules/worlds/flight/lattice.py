"""Numbers that a place has for ever, and smooth noise made of them.

Every number is an integer hash of (seed, channel, x, y) in 32 bits, computed in 64 so that nothing overflows: equal on
every machine, and independent of what else is asked for. Noise is a sum of cubic B-splines about lattice points, so a
window of it is two small matrix products, and any point of it can be had on its own.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

WORD = 0xFFFFFFFF
UNIT = 7.2
"""A B-spline of independent numbers in [-1/2, 1/2] has a deviation of about 1 / UNIT."""


def scrambled(word: Tensor) -> Tensor:
    """A bijection of 32-bit words in which every bit depends on every bit (two rounds of xor-shift and multiply)."""
    word = (word ^ (word >> 16)) * 0x7FEB352D & WORD
    word = (word ^ (word >> 15)) * 0x2C1B3C6D & WORD
    return word ^ (word >> 16)


def numbers(seed: int, channel: int, x: Tensor, y: Tensor) -> Tensor:
    """Numbers in [0, 1), float32 and multiples of 2^-24, of integer places x and y (which broadcast)."""
    root = scrambled(torch.tensor(((seed & WORD) ^ ((seed >> 32) & WORD)) ^ (channel * 0x3504F333 & WORD)))
    column = scrambled(root ^ (x & WORD))
    return (scrambled((column + 0x1B873593 & WORD) ^ (y & WORD)) >> 8).float() / 2**24


def number(seed: int, channel: int, index: int = 0) -> float:
    """One of the numbers that belong to a seed as a whole."""
    return float(numbers(seed, channel, torch.tensor(index), torch.tensor(-7)))


def spline(x: Tensor) -> Tensor:
    """The cubic B-spline with knots at whole numbers, centred on 0; its integer shifts sum to 1."""
    x = x.abs()
    near = 2 / 3 - x.square() * (1 - x / 2)
    return torch.where(x < 1, near, (2 - x).clamp(min=0) ** 3 / 6)


@lru_cache(maxsize=64)
def _weights(side: int, step: int) -> Tensor:
    """Of lattice points -1, 0, .. `[side, side / step + 3]` at unit places 0 .. side-1."""
    points = torch.arange(side // step + 3) - 1
    return spline(torch.arange(side)[:, None] / step - points[None])


def noise_map(
    seed: int, channel: int, corner: tuple[int, int], side: int, step: tuple[int, int], period: int | None = None
) -> Tensor:
    """Noise of unit deviation `[side, side]`, rows along y, from `corner` (x, y) on, both multiples of `step`.

    With a `period` in lattice points it repeats.
    """
    ix, iy = (c // s + torch.arange(-1, side // s + 2) for c, s in zip(corner, step, strict=True))
    if period is not None:
        ix, iy = ix % period, iy % period
    points = (numbers(seed, channel, ix[None, :], iy[:, None]) - 0.5) * UNIT
    return _weights(side, step[1]) @ points @ _weights(side, step[0]).T


def noise_at(seed: int, channel: int, xy: Tensor, step: tuple[int, int]) -> Tensor:
    """The same noise at places `xy` [N, 2] (float64), as float32 `[N]`."""
    at = xy / torch.tensor(step)
    near = at.floor().long()[:, None] + torch.arange(-1, 3)[:, None]  # [N, 4, 2]
    weight = spline(at[:, None] - near).float()
    points = (numbers(seed, channel, near[:, None, :, 0], near[:, :, None, 1]) - 0.5) * UNIT
    return torch.einsum("nyx,ny,nx->n", points, weight[..., 1], weight[..., 0])
