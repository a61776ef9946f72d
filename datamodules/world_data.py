"""Clips of the built-in worlds, made as they are asked for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from typing import Any

import torch
from torch import Tensor

from adastate.encoders import Codec
from adastate.types import Batch
from datamodules.base import EndlessData
from datamodules.shards.sampler import BatchStream
from datamodules.worlds.flyover import Flight, Kind, flight, render


class WorldLatents:
    """The first `clips` flights, encoded once and kept in memory as float16; shuffled anew every epoch."""

    def __init__(self, seed: int, pictures: int, clips: int, codec: Codec, kind: Kind = "plain") -> None:
        self.seed = seed
        self.prompts: list[str] = []
        parts = []
        for first in range(0, clips, 64):
            some = world_batch(seed, range(first, min(first + 64, clips)), pictures, kind)
            assert some.video is not None
            parts.append(codec.encode(some.video).half())
            self.prompts += some.prompts
        self.latents = torch.cat(parts)
        self._epoch = lru_cache(maxsize=2)(self._draw)  # a batch may reach into the next epoch

    def batch(self, indices: range) -> Batch:
        """Of the given global sample numbers."""
        places = [divmod(i, len(self.prompts)) for i in indices]
        rows = torch.stack([self._epoch(epoch)[at] for epoch, at in places])
        return Batch(torch.tensor(indices), [self.prompts[i] for i in rows], latents=self.latents[rows].float())

    def _draw(self, epoch: int) -> Tensor:
        g = torch.Generator().manual_seed(self.seed * 1_000_003 + epoch)
        return torch.randperm(len(self.prompts), generator=g)


def world_batch(seed: int, indices: Sequence[int], pictures: int, kind: Kind = "plain") -> Batch:
    """Rows `indices` of the world `seed`, with `pictures` pictures each; 0 gives prompts only."""
    from datamodules.worlds import fog, journey  # which are built of parts of this file

    parts: dict[Kind, tuple[Callable[[int, int], Flight], Callable[[Any, int], Tensor]]] = {
        "plain": (flight, render),
        "journey": (journey.journey, journey.render),
        "fog": (fog.foggy, fog.render),
    }
    draw, show = parts[kind]
    flights = [draw(seed, i) for i in indices]
    return Batch(
        index=torch.tensor(list(indices)),
        prompts=[f.caption for f in flights],
        video=show(flights, pictures) if pictures else None,
    )


class WorldData(EndlessData):
    """The tiny world, rendered as it is asked for.

    Args:
        video_frames: of a clip; 0 gives prompts only.
        batch: clips a process and step.
        seed: of the world; another seed is another world.
        workers: loader processes (0: rendered in the training process).
        clips: encode so many flights once with `codec` and stay with them, which spares rendering and encoding at
            every step; None renders new ones for ever.
        codec: needed with `clips`.
        kind: `plain`; `journey`, whose ground changes along the flight (datamodules/worlds/journey.py); or `fog`, a
            journey through banks of fog (datamodules/worlds/fog.py).
    """

    def __init__(
        self,
        video_frames: int = 21,
        batch: int = 16,
        seed: int = 0,
        workers: int = 0,
        clips: int | None = None,
        codec: Codec | None = None,
        kind: Kind = "plain",
    ) -> None:
        super().__init__(batch, 0 if clips is not None else workers)  # what is in memory needs no one to fetch it
        if clips is not None and codec is None:
            raise ValueError("`clips` keeps latents, so it needs a `codec` to make them")
        self.video_frames, self.seed = video_frames, seed
        self.clips, self.codec, self.kind = clips, codec, kind

    def batches(self, rank: int = 0, world: int = 1) -> BatchStream:
        total = self.batch * world
        if self.clips is None or self.codec is None:
            make = partial(world_batch, self.seed, pictures=self.video_frames, kind=self.kind)
            return BatchStream(make, self.batch, total, rank)
        if self.clips < total:
            raise ValueError(f"{self.clips} clips do not fill one global batch of {total}")
        kept = WorldLatents(self.seed, self.video_frames, self.clips, self.codec, self.kind)
        return BatchStream(kept.batch, self.batch, total, rank)

    def identity(self) -> dict[str, Any]:
        identity: dict[str, Any] = {"kind": "tiny world", "seed": self.seed, "pictures": self.video_frames}
        if self.kind != "plain":
            identity["world"] = self.kind
        if self.clips is not None:
            identity["samples"] = self.clips
        return identity
