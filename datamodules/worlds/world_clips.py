"""Clips of whichever built-in world, by its name."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from adastate.types import Batch
from datamodules.worlds import circuit, flyover, fog, journey
from datamodules.worlds.flight.flight_clips import flight_batch, flight_facts, flight_prompts
from datamodules.worlds.flight.voxel_render import SIZE
from datamodules.worlds.flyover import Flight
from datamodules.worlds.kinds import Kind

DRAWN: dict[str, tuple[Callable[[int, int], Flight], Callable[[Any, int], Tensor]]] = {
    "plain": (flyover.flight, flyover.render_flyover),
    "journey": (journey.journey, journey.render_journey),
    "fog": (fog.foggy, fog.render_fog),
    "circuit": (circuit.circuit, circuit.render_circuit),
    "mist": (circuit.mist, circuit.render_mist),
}
"""How a flight over the discs is drawn from seed and number, and how several are shown."""


def world_batch(seed: int, indices: Sequence[int], pictures: int, kind: Kind = "plain") -> Batch:
    """Rows `indices` of the world `seed`, with `pictures` frames each; 0 gives prompts only.

    Of the flight world also `actions`, a row for each latent frame.
    """
    if kind == "flight":
        return flight_batch(seed, indices, pictures)
    draw, show = DRAWN[kind]
    flights = [draw(seed, i) for i in indices]
    return Batch(
        index=torch.tensor(list(indices)),
        prompts=[f.caption for f in flights],
        video=show(flights, pictures) if pictures else None,
    )


def world_prompts(seed: int, indices: Sequence[int], frames: int, kind: Kind = "plain") -> Batch:
    """Prompts number `indices` of the world `seed`; of the flight world with actions of `frames` latent frames."""
    return flight_prompts(seed, indices, frames) if kind == "flight" else world_batch(seed, indices, 0, kind)


def world_facts(seed: int, index: int, kind: Kind = "plain") -> dict[str, Any]:
    """All that is true of clip `index` of the world `seed`, as JSON takes it."""
    if kind == "flight":
        return flight_facts(seed, index)
    return DRAWN[kind][0](seed, index).facts


def frame_size(kind: Kind) -> int:
    """Height and width of the frames of a world, in pixels."""
    return SIZE if kind == "flight" else flyover.VIEW
