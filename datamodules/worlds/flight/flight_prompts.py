"""Flights in plain words: several ways to say the same, out of one closed vocabulary."""

from __future__ import annotations

from datamodules.worlds.flight.voyages import Voyage

PHRASES = (
    "FPV flight over {biome} at {time}, {weather}{landmark}{later}",
    "flying low over {biome}, {time}, {weather}{landmark}{later}",
    "{biome} seen from the air at {time}, {weather}{landmark}{later}",
    "a drone glides over {biome} under a {time} light, {weather}{landmark}{later}",
)
WITH = ", with {landmark}"
LATER = ", later snow and {later}"


def caption(voyage: Voyage, phrase: int | None = None) -> str:
    """The prompt of a flight; without `phrase` its seed chooses one of `PHRASES`. The lens and veils are not told."""
    pattern = PHRASES[(voyage.seed if phrase is None else phrase) % len(PHRASES)]
    return pattern.format(
        biome=voyage.biome,
        time=voyage.time,
        weather=voyage.weather,
        landmark="" if voyage.landmark == "nothing else" else WITH.format(landmark=voyage.landmark),
        later=LATER.format(later=voyage.later) if voyage.changing else "",
    )
