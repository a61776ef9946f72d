"""All that is true of a flight, drawn from the world's seed and the flight's number."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from datamodules.worlds.flight.atmosphere import TIMES, WEATHERS
from datamodules.worlds.flight.biomes import BIOMES
from datamodules.worlds.flight.lattice import number, numbers
from datamodules.worlds.flight.lens import PLAIN_LENS, Lens, own_lens
from datamodules.worlds.flight.terrain import ramp

LANDMARKS = ("hot-air balloons", "white towers", "nothing else")
CHANGE = (40.0, 160.0)
"""A scene that changes does so between these distances flown, in units: a clip of 21 pictures flies 10 to 28."""


@dataclass(frozen=True)
class Rules:
    """What makes a flight hard to remember, each on or off.

    Attributes:
        lens: exposure and contrast are the flight's own, and no prompt tells them.
        grain: so is the noise of its pictures, which few codecs keep.
        changing: with the distance flown snow covers the land and the next time of day comes, for good.
        veils: clouds and tunnels hide everything for a while.
        drifting: one balloon in a colour of its own is carried by the wind.
    """

    lens: bool = True
    grain: bool = True
    changing: bool = False
    veils: bool = False
    drifting: bool = False


PLAIN = Rules(lens=False, grain=False)


@dataclass(frozen=True)
class Voyage:
    """A flight: everything but how it is steered.

    Attributes:
        seed: of its land, sky and landmarks.
        start: place (x, y) in units; heading: radians, clockwise from north.
        agility: radians a picture of a full turn, .07 to .11.
        gaze: radians a picture at which the camera turns its head, .2 to .45.
    """

    seed: int
    biome: str
    time: str
    weather: str
    landmark: str
    start: tuple[float, float]
    heading: float
    agility: float
    gaze: float
    lens: Lens = PLAIN_LENS
    changing: bool = False
    veils: bool = False
    drifting: bool = False

    @property
    def later(self) -> str:
        """The time of day that comes after the flight's own."""
        times = list(TIMES)
        return times[(times.index(self.time) + 1) % len(times)]

    @property
    def azimuth(self) -> float:
        """Where the sun stands, clockwise from north."""
        return 2 * math.pi * number(self.seed, 50)

    def changed(self, flown: Tensor) -> Tensor:
        """Share of the change that has come about after the distances `flown`, float32 of their shape."""
        return ramp(flown.float(), *CHANGE) if self.changing else torch.zeros(flown.shape)


def voyage(seed: int, index: int, rules: Rules = PLAIN, **fixed: str) -> Voyage:
    """Flight number `index` of the world `seed`; `fixed` sets biome, time, weather or landmark.

    What is fixed changes nothing else: the same number is the same place, sun and lens.
    """
    digest = hashlib.blake2b(f"voyage {seed} {index}".encode(), digest_size=4).digest()
    own = int.from_bytes(digest, "big")
    options: dict[str, Sequence[str]] = {
        "biome": list(BIOMES),
        "time": list(TIMES),
        "weather": list(WEATHERS),
        "landmark": LANDMARKS,
    }
    facts: dict[str, str] = {}
    for i, (name, values) in enumerate(options.items()):
        facts[name] = fixed.get(name, values[int(number(own, 40 + i) * len(values))])
        if facts[name] not in values:
            raise ValueError(f"{name} {facts[name]!r}: there is {', '.join(values)}")
    if unknown := fixed.keys() - options.keys():
        raise ValueError(f"{', '.join(unknown)}: a flight has {', '.join(options)}")
    x, y, heading, agility, gaze = (number(own, 44 + i) for i in range(5))
    return Voyage(
        own,
        **facts,
        start=(40_000 * x, 40_000 * y),
        heading=2 * math.pi * heading,
        agility=0.07 + 0.04 * agility,
        gaze=0.2 + 0.25 * gaze,
        lens=own_lens(own, rules.lens, rules.grain),
        changing=rules.changing,
        veils=rules.veils,
        drifting=rules.drifting,
    )


def steering(seed: int, index: int, frames: int) -> Tensor:
    """Actions `[frames, 8]` for flight number `index`: 0/1 columns w,a,s,d,i,j,k,l, each kept for 2 to 4 latent frames.

    A third of the time each of turn, climb and speed is left alone; one time in eight the camera looks aside or back,
    one in sixteen it hovers.
    """
    own = voyage(seed, index).seed
    rows: list[Tensor] = []
    spell = 0
    while len(rows) < frames:
        turn, climb, pace, look, side, hold = numbers(own, 90, torch.tensor(spell), torch.arange(6)).tolist()
        row = torch.zeros(8)
        for choice, (less, more) in ((turn, (1, 3)), (climb, (6, 4)), (pace, (2, 0))):
            if choice > 1 / 3:
                row[less if choice < 2 / 3 else more] = 1
        if look < 1 / 8:
            row[[5, 7] if side < 1 / 2 else [5] if side < 3 / 4 else [7]] = 1
        elif look > 15 / 16:
            row[[0, 2]] = 1
        rows += [row] * (2 + int(3 * hold))
        spell += 1
    return torch.stack(rows[:frames])
