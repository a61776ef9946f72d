"""Journeys whose ring of hues is short, seen through a lens that no prompt tells: `circuit`, and `mist` through fog.

Two worlds that the study learnt to need from journeys and fog. There, a lap of hues takes 192 pixels, so a stream that
never changes its hue is hardly wrong after a bank of fog. Here it takes `LAP`, and standing still costs far more than a
good stream's error. And nothing could get worse for good: what a journey hides (its livery) is shown again by every
disc. The lens of a flight, its exposure, contrast and grain, is in no caption, differs from flight to flight, and stays
the same for ever, so whoever generates it has to keep it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import ClassVar

import torch
from torch import Tensor

from datamodules.worlds import fog, journey
from datamodules.worlds.flyover import VIEW
from datamodules.worlds.fog import Foggy
from datamodules.worlds.journey import Journey

LAP = 56.0
"""Pixels of flight in which the ground's hue goes once round. A bank of mist hides 7 to 28 pixels of flight."""

BANKS = (12, 15)
"""Pictures from bank to bank in the mist: 7 or 9 hide the ground. Of the first fog's longest, 18, few clips of a
teacher showed both ends, and it did not learn them (docs/results/study.md)."""

EXPOSURE = (-0.08, 0.08)
CONTRAST = (0.75, 1.0)
GRAIN = (0.0, 0.08)
"""What a lens adds to the brightness, what it multiplies colours by, and how strongly its pattern shows."""


@dataclass(frozen=True)
class LensConstants:
    """Of a flight, in the units of video."""

    exposure: float
    contrast: float
    grain: float


@dataclass(frozen=True)
class Circuit(Journey):
    """A journey of short laps through a lens."""

    lens: LensConstants
    lap: ClassVar[float] = LAP


@dataclass(frozen=True)
class Mist(Foggy):
    """A foggy journey of short laps through a lens."""

    lens: LensConstants
    lap: ClassVar[float] = LAP


def pattern() -> Tensor:
    """What lies on every lens, `[32, 32]` of 1 and -1: squares of two pixels, as coarse as the codec can tell."""
    square = torch.arange(VIEW) // 2
    return 1.0 - 2.0 * ((square[:, None] + square[None, :]) % 2)


def own_constants(seed: int, index: int) -> LensConstants:
    """Evenly drawn for the flight number `index` of the world `seed`."""
    digest = hashlib.blake2b(f"lens {seed} {index}".encode(), digest_size=12).digest()
    parts = [int.from_bytes(digest[i : i + 4], "big") / 2**32 for i in (0, 4, 8)]
    limits = (EXPOSURE, CONTRAST, GRAIN)
    return LensConstants(*(low + (high - low) * part for part, (low, high) in zip(parts, limits, strict=True)))


def circuit(seed: int, index: int, **fixed: str) -> Circuit:
    """The circuit number `index` of the world `seed`; `fixed` sets heading, speed or mover."""
    return Circuit(**asdict(journey.journey(seed, index, **fixed)), lens=own_constants(seed, index))


def mist(seed: int, index: int, **fixed: str) -> Mist:
    """The circuit number `index` of the world `seed`, through banks of fog."""
    return _misty(fog.foggy(seed, index, **fixed), seed, index)


def even_circuits(count: int, seed: int) -> list[Circuit]:
    """Headings, speeds and movers spread evenly, as `journey.even_journeys`."""
    even = journey.even_journeys(count, seed)
    return [Circuit(**asdict(j), lens=own_constants(seed, i)) for i, j in enumerate(even)]


def even_mist(count: int, seed: int) -> list[Mist]:
    """The same through fog, as `fog.even_foggy`."""
    return [_misty(f, seed, i) for i, f in enumerate(fog.even_foggy(count, seed))]


def _misty(clear: Foggy, seed: int, index: int) -> Mist:
    banks = BANKS[index // 2 % len(BANKS)]  # headings alternate straight and aslant with the index
    return Mist(**{**asdict(clear), "period": banks}, lens=own_constants(seed, index))


def render_circuit(flights: Sequence[Circuit], pictures: int, first: int = 0) -> Tensor:
    """Pictures first..first+pictures-1 of each flight, `[B, T, 3, 32, 32]` in [-1, 1]."""
    return behind_lens(journey.render_journey(flights, pictures, first), [f.lens for f in flights])


def render_mist(flights: Sequence[Mist], pictures: int, first: int = 0) -> Tensor:
    """The same of flights through fog."""
    return behind_lens(fog.render_fog(flights, pictures, first), [f.lens for f in flights])


def behind_lens(video: Tensor, lenses: Sequence[LensConstants]) -> Tensor:
    """Video `[B, T, 3, 32, 32]` as it is seen through a lens a row."""
    told = torch.tensor([[o.exposure, o.contrast, o.grain] for o in lenses])
    exposure, contrast, grain = (told[:, i, None, None, None, None] for i in range(3))
    return (video * contrast + exposure + grain * pattern()).clamp(-1, 1)
