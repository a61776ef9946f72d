"""Clips that move, freeze, flicker, fade and repeat by known amounts."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def sheet(seed: int = 0, size: int = 160) -> Tensor:
    """A texture `[3, size, size]` of smooth noise."""
    noise = torch.randn(1, 3, size, size, generator=torch.Generator().manual_seed(seed))
    smooth = nn.functional.avg_pool2d(noise, 5, 1, 2)[0]
    return 0.5 * smooth / smooth.std()


def slide(
    dx: int, dy: int, pictures: int = 24, seed: int = 0, side: int = 32, start: tuple[int, int] = (64, 64)
) -> Tensor:
    """A camera that moves by (dx, dy) pixels a picture over a sheet, `[1, T, 3, side, side]`."""
    over, (x, y) = sheet(seed), start
    views = [over[:, y + t * dy : y + t * dy + side, x + t * dx : x + t * dx + side] for t in range(pictures)]
    return torch.stack(views)[None]


def still(pictures: int = 24, seed: int = 0) -> Tensor:
    return slide(0, 0, pictures, seed)


def unrelated(pictures: int = 24) -> Tensor:
    """Every picture from another sheet."""
    return torch.cat([slide(0, 0, 1, seed) for seed in range(pictures)], 1)
