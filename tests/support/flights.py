"""Clips of the tiny world whose every motion and colour is known."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import torch
from torch import Tensor

from datamodules.worlds.flyover import HEADINGS, PALETTES, SPEEDS, Flight, flight, render_flyover

PICTURES = 7
PLAIN = replace(flight(0, 0), mover="nothing else moves")


@cache
def flights() -> list[Flight]:
    """Every heading at every speed, over every palette in turn, without a ball."""
    names = list(PALETTES)
    both = [(h, s) for h in HEADINGS for s in SPEEDS]
    return [
        replace(PLAIN, seed=100 + i, heading=h, speed=s, palette=names[i % len(names)], start=(37 * i, -91 * i))
        for i, (h, s) in enumerate(both)
    ]


@cache
def clips() -> Tensor:
    return render_flyover(flights(), PICTURES)


@cache
def velocities() -> Tensor:
    return torch.tensor([f.velocity for f in flights()], dtype=torch.float32)
