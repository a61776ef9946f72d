"""What is true in the worlds of the study, and how memory and drift are read there."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from adastate import metrics
from adastate.evaluation.evaluate import even_flights
from adastate.metrics import Passages
from datamodules.worlds import circuit, flyover, fog, journey
from datamodules.worlds.circuit import CONTRAST, EXPOSURE, GRAIN, Circuit, Mist
from datamodules.worlds.flyover import Flight
from datamodules.worlds.fog import Foggy
from datamodules.worlds.journey import GROUND, Journey

CHROMA = GROUND[1] * 1.5**0.5
"""Distance from grey of the ground under a clear sky."""

CLEAR = 0.5
"""Share of it that the ground's hue is read from; what has less is fog."""

SHORT, LONG = 5, 10
"""Pictures without a hue that count as a bank of fog, and as a long one. From 5 on a past latent holds nothing else."""

LONGEST = 0.75
"""Laps that the fastest flight comes in the longest bank that counts: a stream whose fog does not lift is left out."""

MIDDLE = 16
"""Side in pixels of the square in which the hue is read; over all of the view short laps would grow pale."""

LENS_RANGES = {
    "exposure": EXPOSURE[1] - EXPOSURE[0],
    "contrast_constant": (CONTRAST[1] - CONTRAST[0]) * CHROMA,
    "grain": GRAIN[1] - GRAIN[0],
}
"""Of the constants of a lens, as they are measured; two flights are a third of it apart in the mean."""

STEP = 12
"""Pictures of a passage where nothing hides the ground."""


@dataclass(frozen=True)
class WorldTruth:
    """What is true in a world.

    Attributes:
        even: true flights spread evenly, of a count and a seed.
        render: their pictures `[B, T, 3, 32, 32]`: how many, and the number of the first.
    """

    even: Callable[[int, int], Sequence[Flight]]
    render: Callable[..., Tensor]


TRUTHS: dict[str, WorldTruth] = {
    "mist": WorldTruth(circuit.even_mist, circuit.render_mist),
    "circuit": WorldTruth(circuit.even_circuits, circuit.render_circuit),
    "journey": WorldTruth(journey.even_journeys, journey.render_journey),
    "fog": WorldTruth(fog.even_foggy, fog.render_fog),
    "plain": WorldTruth(even_flights, flyover.render_flyover),
}


def world_truth(name: str) -> WorldTruth:
    """Of a name of STUDY_WORLDS."""
    return TRUTHS[name]


def hues_of(video: Tensor, flights: Sequence[Flight]) -> Tensor:
    """The ground's hue in every picture `[B, T]`; nan in fog."""
    foggy = any(isinstance(f, Foggy) for f in flights)
    return metrics.ground_hue(video, strength=CLEAR * CHROMA if foggy else 0.0, middle=MIDDLE)


def passages_of(video: Tensor, flights: Sequence[Flight]) -> Passages | None:
    """Where memory is read: the banks of fog, or stretches of `STEP` pictures; None in a world without hues."""
    flown: list[Any] = [f for f in flights if isinstance(f, Journey)]
    if len(flown) < len(flights):
        return None
    rate = torch.tensor([f.turning for f in flown])
    hues = hues_of(video, flights)
    if isinstance(flown[0], Foggy):
        return metrics.hidden_passages(hues, rate, SHORT, int(LONGEST / float(rate.max())))
    return metrics.open_passages(hues, rate, STEP)


def lens_of(video: Tensor, flights: Sequence[Flight], horizon: int) -> dict[str, Tensor]:
    """The constants in every horizon `[B, n]`, and how far they have come from the first one: `lens_drift` is 1 where
    they are as far as those of another flight, the mean over the three. Nothing where flights have no lens."""
    if not all(isinstance(f, (Circuit, Mist)) for f in flights):
        return {}
    found = metrics.lens_constants(video, horizon, circuit.pattern())
    away = [metrics.from_beginning(found[name]) / (LENS_RANGES[name] / 3) for name in metrics.CONSTANTS]
    return {**found, "lens_drift": torch.stack(away).mean(0)}
