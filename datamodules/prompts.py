"""Prompts without pictures."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from adastate.types import Batch
from datamodules.base import EndlessData
from datamodules.shards.sampler import BatchStream, EpochShuffle
from datamodules.worlds.flyover import HEADINGS, Flight, flight
from datamodules.worlds.world_clips import world_batch


def read_prompts(file: Path) -> list[str]:
    """One prompt a line, utf-8; blank lines are ignored.

    Raises:
        FileNotFoundError, ValueError: no such file; no prompt in it; not utf-8.
    """
    if not file.is_file():
        raise FileNotFoundError(
            f"no prompts at {file}: give a text file with one prompt a line, or null for the tiny world's"
        )
    try:
        lines = file.read_text(encoding="utf-8-sig").split("\n")  # splitlines also splits inside a line
    except UnicodeDecodeError as error:
        raise ValueError(f"{file} is not utf-8 (byte {error.start}): save it as utf-8") from error
    prompts = [line.strip() for line in lines if line.strip()]
    if not prompts:
        raise ValueError(f"{file} holds no prompt: write one a line")
    return prompts


class PromptData(EndlessData):
    """Prompts only, endlessly: what distillation needs.

    Args:
        file: text file with one prompt a line; null gives the captions of the tiny world, which never repeat.
        next_file: text file with the prompt to which each line of `file` turns within a long stream, line by line.
        pairs: give such a prompt for the captions of the tiny world: the same flight with another heading and speed.
        batch: prompts a process and step.
        seed: of the order of the file's prompts, another one every epoch.
        world_seed: of the tiny world.
        workers: loader processes (0: read in the training process).
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
    ) -> None:
        super().__init__(batch, workers)
        self.file, self.seed, self.world_seed = file, seed, world_seed
        self.prompts = read_prompts(Path(file)) if file is not None else None
        self.pairs, self.next_prompts = pairs, read_prompts(Path(next_file)) if next_file is not None else None
        if self.next_prompts is not None and len(self.next_prompts) != len(self.prompts or []):
            raise ValueError(
                f"{next_file} has {len(self.next_prompts)} prompts, and {file} {len(self.prompts or [])}: line by line "
                "the one turns to the other, so give as many"
            )
        if pairs and file is not None:
            raise ValueError(f"pairs are made for the tiny world; for the prompts of {file} give a next_file")

    def batches(self, rank: int = 0, world: int = 1) -> BatchStream:
        make: Callable[[range], Batch]
        if self.prompts is None:
            make = partial(_turning if self.pairs else world_batch, self.world_seed, pictures=0)
        else:
            make = partial(_prompt_batch, self.prompts, self.next_prompts, EpochShuffle([len(self.prompts)], self.seed))
        return BatchStream(make, self.batch, self.batch * world, rank)

    def identity(self) -> dict[str, Any]:
        if self.prompts is None:
            return {"kind": "captions of the tiny world", "seed": self.world_seed}
        lines = [*self.prompts, *(self.next_prompts or [])]
        digest = hashlib.blake2b("\n".join(lines).encode(), digest_size=6).hexdigest()
        return {"kind": "prompts", "seed": self.seed, "samples": len(self.prompts), "digest": digest}


def _prompt_batch(prompts: list[str], following: list[str] | None, order: EpochShuffle, indices: range) -> Batch:
    rows = [order[i] for i in indices]
    return Batch(
        index=torch.tensor(indices),
        prompts=[prompts[row] for row in rows],
        next_prompts=[following[row] for row in rows] if following is not None else [],
    )


def _turning(seed: int, indices: range, pictures: int) -> Batch:
    """Captions of the tiny world, and of flights over the same ground in other directions."""
    flights, others = ([flight(s, i) for i in indices] for s in (seed, seed + 1))
    turned = [_turned(one, other) for one, other in zip(flights, others, strict=True)]
    return replace(world_batch(seed, indices, pictures), next_prompts=[f.caption for f in turned])


def _turned(one: Flight, other: Flight) -> Flight:
    """`one` with the heading and the speed of `other`; where both flights have one heading, right round."""
    headings = list(HEADINGS)
    opposite = headings[(headings.index(one.heading) + len(headings) // 2) % len(headings)]
    heading = opposite if other.heading == one.heading else other.heading
    return replace(one, heading=heading, speed=other.speed)
