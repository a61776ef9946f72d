"""Ground truth of the worlds of the study, and how memory and drift are measured in them."""

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
"""Distance of the ground from grey under a clear sky."""

CLEAR = 0.5
"""Fraction of CHROMA that is needed to read the ground's hue; anything less is fog."""

SHORT, LONG = 5, 10
"""Pictures without a hue that count as a bank of fog, and as a long one. From 5 on a past latent holds only fog."""

LONGEST = 0.75
"""Laps of the fastest flight in the longest bank that counts: a stream whose fog does not lift is left out."""

MIDDLE = 16
"""Side in pixels of the square in which the hue is read; over the whole view, short laps would look pale."""

LENS_RANGES = {
    "exposure": EXPOSURE[1] - EXPOSURE[0],
    "contrast_constant": (CONTRAST[1] - CONTRAST[0]) * CHROMA,
    "grain": GRAIN[1] - GRAIN[0],
}
"""Ranges of the lens constants, as they are measured; two flights differ by a third of them on average."""

STEP = 12
"""Pictures per passage in worlds where nothing hides the ground."""


@dataclass(frozen=True)
class WorldTruth:
    """Ground truth of a world.

    Attributes:
        even: evenly spread true flights, from a count and a seed.
        render: their pictures `[B, T, 3, 32, 32]`, from the number of pictures and the index of the first.
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
    """The ground truth of a name in STUDY_WORLDS."""
    return TRUTHS[name]


def hues_of(video: Tensor, flights: Sequence[Flight]) -> Tensor:
    """The ground's hue in every picture `[B, T]`; nan in fog."""
    foggy = any(isinstance(f, Foggy) for f in flights)
    return metrics.ground_hue(video, strength=CLEAR * CHROMA if foggy else 0.0, middle=MIDDLE)


def passages_of(video: Tensor, flights: Sequence[Flight]) -> Passages | None:
    """Where memory is measured: banks of fog, or stretches of `STEP` pictures; None in a world without hues."""
    flown: list[Any] = [f for f in flights if isinstance(f, Journey)]
    if len(flown) < len(flights):
        return None
    rate = torch.tensor([f.turning for f in flown])
    hues = hues_of(video, flights)
    if isinstance(flown[0], Foggy):
        return metrics.hidden_passages(hues, rate, SHORT, int(LONGEST / float(rate.max())))
    return metrics.open_passages(hues, rate, STEP)


def lens_of(video: Tensor, flights: Sequence[Flight], horizon: int) -> dict[str, Tensor]:
    """The lens constants in every horizon `[B, n]`, and their distance from the first horizon: `lens_drift` is 1 if
    they are as far away as those of another flight, averaged over the three. Empty if flights have no lens."""
    if not all(isinstance(f, (Circuit, Mist)) for f in flights):
        return {}
    found = metrics.lens_constants(video, horizon, circuit.pattern())
    away = [metrics.from_beginning(found[name]) / (LENS_RANGES[name] / 3) for name in metrics.CONSTANTS]
    return {**found, "lens_drift": torch.stack(away).mean(0)}
