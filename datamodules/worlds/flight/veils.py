"""What hides the land for a while: flights through a cloud and through a tunnel, by the flight's clock."""

from __future__ import annotations

import torch
from torch import Tensor

from datamodules.worlds.flight.lattice import noise_map, number
from datamodules.worlds.flight.terrain import ramp

EVERY = 120
"""Pictures from one veil to the next; each lasts 24 to 64 of them, with 4 more to come and 4 to go."""

ROCK = (0.20, 0.17, 0.15)
WALL, BEND = 3.0, 40.0
"""Radius of the tunnel, and how far one sees in it, in units."""


def hidden_shares(seed: int, clock: Tensor) -> tuple[Tensor, Tensor]:
    """How much a cloud and a tunnel hide, each `[T]` in [0, 1], at picture numbers `clock` [T]."""
    cloud, tunnel = torch.zeros(len(clock)), torch.zeros(len(clock))
    for i, t in enumerate(clock.tolist()):
        lap, at = int(t // EVERY), t % EVERY
        long = 24 + 40 * number(seed, 80, lap)
        start = 16 + (EVERY - 32 - long) * number(seed, 81, lap)
        amount = min(max(min(at - start, start + long - at) / 4 + 1, 0.0), 1.0)
        (cloud if number(seed, 82, lap) < 0.5 else tunnel)[i] = amount
    return cloud, tunnel


def veiled(seed: int, picture: Tensor, u: Tensor, rise: Tensor, poses: Tensor, white: Tensor) -> Tensor:
    """`picture` [T, 3, h, w] with its veils. `white`: colour of a cloud's inside `[T, 3]`; others as in `sky`."""
    clock, flown = poses[:, 7], poses[:, 6]
    cloud, tunnel = hidden_shares(seed, clock)
    shown = (cloud + tunnel > 0).nonzero()[:, 0].tolist()
    if not shown:
        return picture
    picture = picture.clone()
    h, w = picture.shape[-2:]
    level = poses[:, 4].tan().float()
    for i in shown:
        if cloud[i] > 0:
            puff = noise_map(seed, 83, (int(clock[i]) * 16, 0), 64, (16, 16))[:h, :w]
            picture[i] = torch.lerp(picture[i], white[i, :, None, None] * (1 + 0.03 * puff), cloud[i])
        if tunnel[i] > 0:
            from_axis = (u.square() + (rise[i, 0] - level[i]).square()).sqrt()
            ahead = WALL / from_axis.clamp(min=0.01)
            along = (ahead + float(flown[i] % 1e4)) * 1.1
            ribs = 0.75 + 0.25 * torch.cos(along) * torch.exp(-ahead / 14)
            lamp = torch.exp(-(ahead / 16)) + 1.6 * ramp(ahead, 0.7 * BEND, BEND)  # headlight, and the far end
            wall = torch.tensor(ROCK)[:, None, None] * (ribs * lamp * 1.6)
            open_ = torch.lerp(wall, white[i, :, None, None], 0.9 * ramp(ahead, 0.75 * BEND, 1.1 * BEND))
            picture[i] = torch.lerp(picture[i], open_, tunnel[i])
    return picture
