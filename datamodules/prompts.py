"""Prompts without pictures."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from adastate.runtime.text_files import read_prompts
from adastate.types import Batch
from datamodules.base import EndlessData
from datamodules.shards.sampler import BatchStream, EpochShuffle
from datamodules.world_data import world_identity
from datamodules.worlds.flight.flight_clips import next_prompt
from datamodules.worlds.flyover import HEADINGS, Flight, Kind
from datamodules.worlds.world_clips import DRAWN, world_prompts


class PromptData(EndlessData):
    """Prompts only, endlessly: what distillation needs; in a world that can be steered also actions.

    Args:
        file: text file with one prompt a line; null gives the captions of a built-in world, which never repeat.
        next_file: text file with the prompt to which each line of `file` turns within a long stream, line by line.
        pairs: give such a prompt for the captions of the world: the same flight with another heading and speed, or in
            the flight world at the next time of day and in another weather.
        batch: prompts a process and step.
        seed: of the order of the file's prompts, another one every epoch.
        world_seed: of the built-in world.
        workers: loader processes (0: read in the training process).
        kind: of the world, see WorldData. `flight` gives actions `[B, frames, 8]`, beside prompts of a file, too.
        frames: latent frames of the actions, those of the longest rollout; longer ones begin as shorter ones do.
    """

    def __init__(
        self,
        file: str | None = None,
        batch: int = 16,
        seed: int = 0,
        world_seed: int = 0,
        workers: int = 0,
        next_file: str | None = None,
        pairs: bool = False,
        kind: Kind = "plain",
        frames: int = 7,
    ) -> None:
        super().__init__(batch, workers)
        if frames < 1:
            raise ValueError(f"actions of {frames} latent frames: give those of a rollout, 1 or more")
        self.file, self.seed, self.world_seed, self.kind, self.frames = file, seed, world_seed, kind, frames
        self.prompts = read_prompts(Path(file)) if file is not None else None
        self.pairs, self.next_prompts = pairs, read_prompts(Path(next_file)) if next_file is not None else None
        if self.next_prompts is not None and len(self.next_prompts) != len(self.prompts or []):
            raise ValueError(
                f"{next_file} has {len(self.next_prompts)} prompts, and {file} {len(self.prompts or [])}: line by line "
                "the one turns to the other, so give as many"
            )
        if pairs and file is not None:
            raise ValueError(f"pairs are made for built-in worlds; for the prompts of {file} give a next_file")

    def batches(self, rank: int = 0, world: int = 1) -> BatchStream:
        drawn = partial(world_prompts, self.world_seed, frames=self.frames, kind=self.kind)
        make: Callable[[range], Batch] = drawn
        if self.prompts is not None:
            order = EpochShuffle([len(self.prompts)], self.seed)
            steered = drawn if self.kind == "flight" else None
            make = partial(_prompt_batch, self.prompts, self.next_prompts, order, steered)
        elif self.pairs:
            make = partial(_turning, drawn, self.world_seed, self.kind)
        return BatchStream(make, self.batch, self.batch * world, rank)

    def identity(self) -> dict[str, Any]:
        if self.prompts is None:
            world = world_identity(self.kind)
            return {**world, "kind": f"captions of the {world['kind']}", "seed": self.world_seed}
        lines = [*self.prompts, *(self.next_prompts or [])]
        digest = hashlib.blake2b("\n".join(lines).encode(), digest_size=6).hexdigest()
        steered = {"steered": self.world_seed} if self.kind == "flight" else {}
        return {"kind": "prompts", "seed": self.seed, "samples": len(self.prompts), "digest": digest, **steered}


def _prompt_batch(
    prompts: list[str],
    following: list[str] | None,
    order: EpochShuffle,
    steered: Callable[[range], Batch] | None,
    indices: range,
) -> Batch:
    """Lines of a file; the actions are those of the built-in flights of the same numbers."""
    rows = [order[i] for i in indices]
    return Batch(
        index=torch.tensor(indices),
        prompts=[prompts[row] for row in rows],
        next_prompts=[following[row] for row in rows] if following is not None else [],
        actions=steered(indices).actions if steered is not None else None,
    )


def _turning(drawn: Callable[[range], Batch], seed: int, kind: Kind, indices: range) -> Batch:
    """Captions of a world, and those that they turn to."""
    return replace(drawn(indices), next_prompts=[_next_caption(seed, i, kind) for i in indices])


def _next_caption(seed: int, index: int, kind: Kind) -> str:
    if kind == "flight":
        return next_prompt(seed, index)
    one, other = (DRAWN[kind][0](s, index) for s in (seed, seed + 1))
    return _turned(one, other).caption


def _turned(one: Flight, other: Flight) -> Flight:
    """`one` with the heading and the speed of `other`; where both flights have one heading, right round."""
    headings = list(HEADINGS)
    opposite = headings[(headings.index(one.heading) + len(headings) // 2) % len(headings)]
    heading = opposite if other.heading == one.heading else other.heading
    return replace(one, heading=heading, speed=other.speed)
