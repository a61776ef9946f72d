"""Journeys through banks of fog: the ground that comes out of the fog has to fit the ground that went in.

In a journey every chunk sees the ground of the chunk before, so one past frame is enough to go on from. Here the flight
passes, every `PERIODS` pictures, through a bank of fog that hides ground and discs for longer than a short window
reaches back. When it lifts, the ground has turned as far as the flight has come meanwhile. A stream that sees its last
frames alone, all of them fog, cannot know the hue any more; one that clings to its first view comes out where it began.

Fog is grey. Its brightness rises and falls evenly, under the clear sky too, so that every few pictures tell whether the
fog is coming or going and how long it will stay: nothing about *when* has to be remembered, only *where*.

That the hue after a bank is near the one that is due is no proof of memory: a hue that never changes scores 0.103 turns
by that measure (`across_gaps` in adastate/metrics/scene_memory.py), where unrelated hues score 0.25
(docs/results/study_first.md).
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import torch
from torch import Tensor

from datamodules.worlds import journey
from datamodules.worlds.flyover import balls
from datamodules.worlds.journey import GROUND, Journey

PERIODS = (12, 15, 18)
"""Pictures from bank to bank; a flight has one of them. Nothing but fog is seen for 7, 9 and 11 pictures of each: past
latents of 3 pictures reach back over that from the third, the fourth and the fifth on."""

BRIGHTNESS = (-0.4, 0.35)
"""Of ground or fog: in the middle between two banks, and in the middle of a bank."""

CLEAR = (-0.2, -0.12)
"""Brightness below which there is no fog, and above which there is nothing else."""


@dataclass(frozen=True)
class Foggy(Journey):
    """A journey through fog.

    Attributes:
        period: pictures from bank to bank.
        phase: where it begins, in periods; the middle of a bank is at 0.5.
    """

    period: int
    phase: float


def foggy(seed: int, index: int, **fixed: str) -> Foggy:
    """The journey number `index` of the world `seed`, in fog; `fixed` sets heading, speed or mover."""
    return _veiled(journey.journey(seed, index, **fixed), seed, index)


def even_foggy(count: int, seed: int) -> list[Foggy]:
    """Journeys whose headings, speeds and movers are spread evenly, as `journey.even_journeys`; periods in turns."""
    return [_veiled(j, seed, i) for i, j in enumerate(journey.even_journeys(count, seed))]


def _veiled(clear: Journey, seed: int, index: int) -> Foggy:
    digest = hashlib.blake2b(f"fog {seed} {index}".encode(), digest_size=4).digest()
    return Foggy(**asdict(clear), period=PERIODS[index % len(PERIODS)], phase=int.from_bytes(digest, "big") / 2**32)


def brightness(flights: Sequence[Foggy], t: Tensor) -> Tensor:
    """Of ground or fog at pictures `t`, `[B, T]`."""
    period = torch.tensor([f.period for f in flights])[:, None]
    at = (t / period + torch.tensor([f.phase for f in flights])[:, None]) % 1.0
    low, high = BRIGHTNESS
    return low + (high - low) * (1 - (2 * at - 1).abs())


def render_fog(flights: Sequence[Foggy], pictures: int, first: int = 0) -> Tensor:
    """Pictures first..first+pictures-1 of each flight, `[B, T, 3, 32, 32]` in [-1, 1]. No fog hides the ball."""
    t = torch.arange(first, first + pictures)
    level = brightness(flights, t)
    clear = ((CLEAR[1] - level) / (CLEAR[1] - CLEAR[0])).clamp(0, 1)
    relief = journey.scenery(flights, pictures, first) - GROUND[0]
    view = (level[..., None, None, None] + clear[..., None, None, None] * relief).clamp(-1, 1)
    return balls(view, flights, t).movedim(-1, 2).contiguous()
