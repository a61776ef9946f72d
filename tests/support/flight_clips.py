"""Rendered flights for measures to be tried on, and what a small codec would leave of them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor
from torch.nn import functional as nnf

from datamodules.worlds.flight.camera_path import path
from datamodules.worlds.flight.voxel_render import render_flights
from datamodules.worlds.flight.voyages import Rules, Voyage, steering, voyage


@dataclass(frozen=True)
class Flown:
    """Flights, their poses `[B, T, 8]` and their pictures `[B, T, 3, 64, 64]`."""

    flights: tuple[Voyage, ...]
    poses: Tensor
    video: Tensor


@lru_cache(maxsize=4)
def flown(seed: int, count: int, frames: int, lens: bool = True, **fixed: str) -> Flown:
    """Flights number 0 .. count-1 of a world, steered as it draws, `frames` latent frames long."""
    flights = tuple(voyage(seed, i, Rules(lens, lens), **fixed) for i in range(count))
    poses = torch.stack([path(v, steering(seed, i, frames)) for i, v in enumerate(flights)])
    return Flown(flights, poses, render_flights(flights, poses))


def codec_like(video: Tensor, blur: float = 0.8, noise: float = 0.03) -> Tensor:
    """`video` blurred by a Gaussian of `blur` pixels, with noise of deviation `noise` that is two pixels wide.

    The error is about 33 dB below the full range, that of a codec of the flight world at half of its training.
    """
    g = torch.Generator().manual_seed(0)
    bell = torch.exp(-torch.arange(-3, 4).square() / (2 * blur**2))
    bell = (bell / bell.sum()).expand(3, 1, 1, 7)
    x = nnf.pad(video.flatten(0, 1), (3, 3, 3, 3), mode="replicate")
    x = nnf.conv2d(nnf.conv2d(x, bell, groups=3), bell.transpose(2, 3), groups=3)
    h, w = x.shape[-2:]
    coarse = torch.randn(len(x), 3, h // 2, w // 2, generator=g)
    spots = nnf.interpolate(coarse, size=(h, w), mode="bilinear")
    return (x + noise * spots / spots.std()).clamp(-1, 1).view(video.shape)
