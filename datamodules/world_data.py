"""Clips of the built-in worlds, made as they are asked for."""

from __future__ import annotations

from functools import lru_cache, partial
from typing import Any

import torch
from torch import Tensor

from adastate.encoders import Codec
from adastate.types import Batch
from datamodules.base import EndlessData
from datamodules.shards.sampler import BatchStream
from datamodules.worlds.flyover import Kind
from datamodules.worlds.world_clips import world_batch


def world_identity(kind: Kind) -> dict[str, Any]:
    """What an identity tells of a world."""
    if kind == "flight":
        return {"kind": "flight world"}
    return {"kind": "tiny world"} | ({} if kind == "plain" else {"world": kind})


class KeptClips:
    """The first `clips` clips, made once and kept in memory; shuffled anew every epoch.

    With a `codec` they are kept as its latents, in float16, otherwise as video of 8 bits. `excerpt` frames of each are
    handed out, from a place that is drawn; None hands out all.
    """

    def __init__(
        self,
        seed: int,
        frames: int,
        clips: int,
        codec: Codec | None,
        kind: Kind = "plain",
        excerpt: int | None = None,
    ) -> None:
        self.seed, self.excerpt, self.encoded = seed, excerpt, codec is not None
        self.prompts: list[str] = []
        parts, actions = [], []
        for first in range(0, clips, 64):
            some = world_batch(seed, range(first, min(first + 64, clips)), frames, kind)
            assert some.video is not None
            parts.append(_bytes(some.video) if codec is None else codec.encode(some.video).half())
            self.prompts += some.prompts
            actions += [] if some.actions is None else [some.actions]
        self.kept, self.actions = torch.cat(parts), torch.cat(actions) if actions else None
        self._epoch = lru_cache(maxsize=2)(self._draw)  # a batch may reach into the next epoch

    def batch(self, indices: range) -> Batch:
        """Of the given global sample numbers."""
        places = [divmod(i, len(self.prompts)) for i in indices]
        rows = [self._epoch(epoch)[0][at] for epoch, at in places]
        prompts = [self.prompts[i] for i in rows]
        if self.encoded:
            actions = None if self.actions is None else self.actions[rows]
            return Batch(torch.tensor(indices), prompts, latents=self.kept[rows].float(), actions=actions)
        if self.excerpt is None:
            actions = None if self.actions is None else self.actions[rows]
            return Batch(torch.tensor(indices), prompts, video=_pictures(self.kept[rows]), actions=actions)
        starts = [self._epoch(epoch)[1][at] for epoch, at in places]
        video = [self.kept[row, start : start + self.excerpt] for row, start in zip(rows, starts, strict=True)]
        return Batch(torch.tensor(indices), prompts, video=_pictures(torch.stack(video)))

    def _draw(self, epoch: int) -> tuple[list[int], list[int]]:
        """Of an epoch: the order of the clips, and the frame at which the excerpt of each place begins."""
        g = torch.Generator().manual_seed(self.seed * 1_000_003 + epoch)
        order = torch.randperm(len(self.prompts), generator=g)
        starts = torch.randint(self.kept.shape[1] - (self.excerpt or 1) + 1, (len(order),), generator=g)
        return order.tolist(), starts.tolist()


def _bytes(video: Tensor) -> Tensor:
    return ((video + 1) * 127.5).round().byte()


def _pictures(kept: Tensor) -> Tensor:
    return kept.float() / 127.5 - 1


class WorldData(EndlessData):
    """Clips of a built-in world, rendered as they are asked for; those of the flight world bring their actions.

    Args:
        video_frames: of a clip; 0 gives prompts only.
        batch: clips a process and step.
        seed: of the world; another seed is another world.
        workers: loader processes (0: rendered in the training process).
        clips: make so many clips once and stay with them, which spares rendering at every step; None renders new
            ones for ever.
        codec: keeps the `clips` as its latents.
        excerpt: frames of each of the `clips` that a batch shows, from a place that is drawn; not with a codec.
        kind: `plain`; `journey`, whose ground changes along the flight (datamodules/worlds/journey.py); or `fog`, a
            journey through banks of fog (datamodules/worlds/fog.py); `circuit` and `mist`, the same with short laps
            behind a lens (datamodules/worlds/circuit.py); or `flight`, a camera that is steered over land
            (datamodules/worlds/flight/).
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
        excerpt: int | None = None,
    ) -> None:
        super().__init__(batch, 0 if clips is not None else workers)  # what is in memory needs no one to fetch it
        if codec is not None and clips is None:
            raise ValueError("a `codec` encodes the clips that are kept: set `clips`, their number")
        if excerpt is not None and (clips is None or codec is not None or not 0 < excerpt <= video_frames):
            raise ValueError(
                f"`excerpt` {excerpt} is cut from kept video: it needs `clips`, no `codec`, and at most the "
                f"{video_frames} frames of a clip"
            )
        self.video_frames, self.seed = video_frames, seed
        self.clips, self.codec, self.kind, self.excerpt = clips, codec, kind, excerpt

    def batches(self, rank: int = 0, world: int = 1) -> BatchStream:
        total = self.batch * world
        if self.clips is None:
            make = partial(world_batch, self.seed, pictures=self.video_frames, kind=self.kind)
            return BatchStream(make, self.batch, total, rank)
        if self.clips < total:
            raise ValueError(f"{self.clips} clips do not fill one global batch of {total}")
        kept = KeptClips(self.seed, self.video_frames, self.clips, self.codec, self.kind, self.excerpt)
        return BatchStream(kept.batch, self.batch, total, rank)

    def identity(self) -> dict[str, Any]:
        identity = {**world_identity(self.kind), "seed": self.seed, "pictures": self.video_frames}
        if self.clips is not None:
            identity["samples"] = self.clips
        if self.excerpt is not None:
            identity["excerpt"] = self.excerpt
        return identity
