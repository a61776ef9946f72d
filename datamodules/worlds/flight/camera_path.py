"""From actions to the way of a camera: smooth banking, a head that turns, a height kept above the land.

Actions are 0/1 columns for each latent frame, in the order `KEYS`: w, s faster, slower (both: hover); a, d bank left,
right; i, k climb, sink; j, l look left, right (both: back). A pose is a row of eight numbers, `POSE`: with distance
and clock in it any picture of any flight can be drawn from its pose alone.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from datamodules.worlds.flight.terrain import terrain_height
from datamodules.worlds.flight.voyages import Voyage

KEYS = ("w", "a", "s", "d", "i", "j", "k", "l")
POSE = ("x", "y", "z", "yaw", "pitch", "roll", "flown", "clock")
"""Units; radians: yaw of the view clockwise from north, pitch upwards, roll positive when banked to the right; units
flown from the start; number of the picture."""

PICTURES = 3
"""Of a latent frame."""

CRUISE, FASTER = 0.9, 0.45
"""Units a picture, and what w adds and s takes away."""

LOWEST, USUAL, HIGHEST = 5.0, 9.0, 18.0
"""Height above the land, in units."""

SOFT = 2.0
"""Units by which a top must stand out to count e times as much."""

DOWN, BANK = -0.17, 2.6
"""Pitch of level flight; radians of roll for a turn of one radian a picture."""


def wishes(actions: Tensor, gaze: float) -> Iterator[tuple[float, float, float, float]]:
    """Of each latent frame: turn and climb in -1 .. 1, speed in units a picture, where the head should point."""
    for w, a, s, d, i, j, k, l in (actions > 0.5).long().tolist():  # noqa: E741
        speed = 0.0 if w and s else CRUISE + FASTER * (w - s)
        look = math.pi if j and l else (l - j) * math.pi / 2
        yield d - a, i - k, speed, look


def path(voyage: Voyage, actions: Tensor, pictures: int = PICTURES, flown: float = 0.0) -> Tensor:
    """Poses `[F * pictures, 8]` (float64) of a flight from its start, steered by `actions` [F, 8].

    `flown` is the distance that lies behind it, in units, where the start is not that of the whole flight.
    """
    x, y = voyage.start
    yaw, rate, pace, lift, look = voyage.heading, 0.0, CRUISE, 0.0, 0.0
    clear = USUAL
    rows = []
    for turn, climb, speed, aim in wishes(actions, voyage.gaze):
        for _ in range(pictures):
            rows.append((x, y, clear, yaw + look, _pitch(lift, rate, look), BANK * rate * math.cos(look), flown))
            rate += 0.4 * (voyage.agility * turn - rate)
            pace += 0.3 * (speed - pace)
            lift += 0.35 * (climb - lift)
            look += min(max(aim - look, -voyage.gaze), voyage.gaze)
            clear = min(max(clear + 0.5 * lift, LOWEST), HIGHEST)
            yaw += rate
            x, y, flown = x + pace * math.sin(yaw), y + pace * math.cos(yaw), flown + pace
    poses = torch.tensor(rows, dtype=torch.float64).reshape(-1, 7)
    poses[:, 2] += beneath(voyage, poses[:, :2])
    return torch.cat([poses, torch.arange(len(poses), dtype=torch.float64)[:, None]], 1)


def _pitch(lift: float, rate: float, look: float) -> float:
    """The bank that tilts the horizon ahead lowers the view to the side of the turn."""
    return DOWN + 0.05 * lift * math.cos(look) - 0.3 * BANK * rate * math.sin(look)


def beneath(voyage: Voyage, xy: Tensor) -> Tensor:
    """What a flight keeps its height above `[T]`: the land within 22 units of `xy` [T, 2], its tops above all."""
    angle = torch.arange(8, dtype=torch.float64) * (math.pi / 4)
    ring = torch.stack([angle.sin(), angle.cos()], -1)
    spots = torch.cat([torch.zeros(1, 2, dtype=torch.float64), *(ring * r for r in (5.0, 13.0, 22.0))])
    height = terrain_height(voyage.seed, voyage.biome, xy[:, None] + spots).double()
    weight = torch.tensor([6.0] * 9 + [1.0] * 16, dtype=torch.float64)  # what is right below weighs most
    return SOFT * torch.logsumexp(height / SOFT + (weight / weight.sum()).log(), 1)
