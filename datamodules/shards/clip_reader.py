"""Clips of a folder of shards by index: the past of a causal teacher."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from adastate.media.video import to_float
from adastate.runtime.secrets import redacted
from datamodules.shards.decode import decode
from datamodules.shards.index import find_shards, read_shard
from datamodules.shards.shard_error import ShardError

KINDS = ("latent.npy", "trajectory.npy", "mp4")
"""What is read from a sample, in this order of preference: latents, the end of a trajectory, or video to encode."""


class Clips:
    """Latents `[F, C, H, W]` and prompts by index.

    Args:
        shards: pattern, as for `find_shards`.
        frames: latent frames of a clip, from its start.
        pictures: video frames that these correspond to.
        encode: video `[1, T, 3, h, w]` to latents.

    Raises:
        ShardError: the shards are missing or damaged, or have none of these kinds.
    """

    def __init__(self, shards: str, frames: int, pictures: int, encode: Callable[[Tensor], Tensor]) -> None:
        self.shards, self.frames, self.pictures, self.encode = shards, frames, pictures, encode
        self._samples = [sample for path in find_shards(shards) for sample in read_shard(path)]
        members = self._samples[0].members
        kind = next((kind for kind in KINDS if kind in members), None)
        if kind is None:
            raise ShardError(
                f"{redacted(shards)} has no clips, only {', '.join(members)}: give shards of latents or video"
            )
        self.kind = kind

    def __len__(self) -> int:
        return len(self._samples)

    def __getitem__(self, number: int) -> tuple[Tensor, str]:
        """Clip `number` modulo their count. Raises BadSample, a ShardError, if it cannot be used."""
        sample = self._samples[number % len(self)]
        if self.kind == "mp4":
            row = decode(sample, self.kind, self.pictures)
            return self.encode(to_float(row.content)[None])[0].float().cpu(), row.prompt
        row = decode(sample, self.kind, self.frames)
        content = row.content.float()
        if self.kind == "trajectory.npy":
            content = content[-2 if with_past(row.facts.get("levels") or []) else -1]
        return content, row.prompt

    def stack(self, numbers: list[int]) -> tuple[Tensor, list[str]]:
        """(`[B, F, C, H, W]`, prompts)."""
        found = [self[number] for number in numbers]
        return torch.stack([clip for clip, _ in found]), [prompt for _, prompt in found]


def with_past(levels: Sequence[float] | Tensor) -> bool:
    """Whether the last entry of trajectories with these levels is the clip that served as their past."""
    told = [float(level) for level in levels]
    return len(told) > 2 and told[-2:] == [0.0, 0.0]
