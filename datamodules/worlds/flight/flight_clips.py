"""Clips of the flight world as stages learn from them: steered, half begun in mid-flight, each also mirrored."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from adastate.types import Batch
from datamodules.worlds.flight.atmosphere import WEATHERS
from datamodules.worlds.flight.camera_path import PICTURES, path
from datamodules.worlds.flight.flight_prompts import caption
from datamodules.worlds.flight.lattice import number
from datamodules.worlds.flight.voxel_render import render_flight
from datamodules.worlds.flight.voyages import CHANGE, Rules, Voyage, steering, voyage

CHANGING, VEILED = 0.2, 0.1
"""Shares of the flights whose scene changes, and in which clouds and tunnels hide everything for a while."""

BEFORE = 4
"""Latent frames flown before a clip that begins in mid-flight."""

MIRRORED = [0, 3, 2, 1, 4, 7, 6, 5]
"""Columns of the actions in a mirror: left and right trade places."""


def flight_batch(seed: int, indices: Sequence[int], frames: int) -> Batch:
    """Clips number `indices` of the world `seed`, `frames` pictures each; with 0 only prompts.

    Clips 2 i and 2 i + 1 are flight i and its mirror image.
    """
    if frames % PICTURES:
        raise ValueError(f"clips of {frames} pictures: a latent frame of this world spans {PICTURES}")
    if not frames:
        return Batch(torch.tensor(list(indices)), [caption(_drawn(seed, n // 2)) for n in indices])
    flights = {i: _flown(seed, i, frames // PICTURES) for i in sorted({n // 2 for n in indices})}
    shown = {i: render_flight(flight, poses) for i, (flight, poses, _) in flights.items()}
    return Batch(
        torch.tensor(list(indices)),
        [caption(flights[n // 2][0]) for n in indices],
        video=torch.stack([shown[n // 2].flip(-1) if n % 2 else shown[n // 2] for n in indices]),
        actions=torch.stack([flights[n // 2][2][:, MIRRORED] if n % 2 else flights[n // 2][2] for n in indices]),
    )


def flight_prompts(seed: int, indices: Sequence[int], frames: int) -> Batch:
    """Prompts of flights number `indices`, odd ones mirrored, with actions `[B, frames, 8]` and without pictures.

    `frames` are latent frames. Longer ones begin as shorter ones do.
    """
    flights = [_drawn(seed, i) for i in indices]
    starts = [_before(flight) for flight in flights]
    actions = [steering(seed, i, start + frames)[start:] for i, start in zip(indices, starts, strict=True)]
    mirrored = [row[:, MIRRORED] if i % 2 else row for row, i in zip(actions, indices, strict=True)]
    return Batch(torch.tensor(list(indices)), [caption(f) for f in flights], actions=torch.stack(mirrored))


def next_prompt(seed: int, index: int) -> str:
    """What the prompt of flight `index` turns to: the same land at the next time of day, in another weather."""
    flight, weathers = _drawn(seed, index), list(WEATHERS)
    later = (weathers.index(flight.weather) + 1 + int(2 * number(flight.seed, 64))) % len(weathers)
    return caption(replace(flight, time=flight.later, weather=weathers[later], changing=False))


def flight_facts(seed: int, index: int) -> dict[str, Any]:
    """What is true of clip `index` of the world `seed` and can be said in words."""
    flight = _drawn(seed, index // 2)
    told = {name: getattr(flight, name) for name in ("seed", "biome", "time", "weather", "landmark")}
    return {**told, "changing": flight.changing, "veils": flight.veils, "mirrored": bool(index % 2)}


def rules(own: int) -> Rules:
    """Those of the flight whose seed is `own`: a lens of its own always, without grain, others for the shares above."""
    changing, veiled = (number(own, salt) for salt in (60, 61))
    return Rules(grain=False, changing=changing < CHANGING, veils=veiled < VEILED)


def _drawn(seed: int, index: int) -> Voyage:
    return voyage(seed, index, rules(voyage(seed, index).seed))


def _flown(seed: int, index: int, frames: int) -> tuple[Voyage, Tensor, Tensor]:
    """A flight, its poses `[3 frames, 8]` and its actions `[frames, 8]`."""
    flight = _drawn(seed, index)
    behind = 1.2 * CHANGE[1] * number(flight.seed, 63) if flight.changing else 0.0
    before = _before(flight)
    actions = steering(seed, index, before + frames)
    return flight, path(flight, actions, flown=behind)[before * PICTURES :], actions[before:]


def _before(flight: Voyage) -> int:
    """Latent frames flown before the clip of a flight begins."""
    return BEFORE if number(flight.seed, 62) < 1 / 2 else 0
