"""Training on clips from WebDataset shards.

Shards are data, not programs: plain tar files, here or behind a URL, never webdataset's `pipe:` commands, and only the
kinds of members that we know are decoded, never pickles. Samples are read where they lie, so that every process reads
its own rows only and any place in the order can be gone to directly.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import torch
from lightning.pytorch.utilities import rank_zero_info

from adastate.media.video import to_float
from adastate.types import Batch
from datamodules.from_shards import FromShards
from datamodules.shards.dataset import ShardDataset
from datamodules.shards.few_clips import few_clips
from datamodules.shards.sampler import BatchStream
from datamodules.shards.shard_error import ShardError
from datamodules.shards.shard_writer import read_manifest


class ShardData(FromShards):
    """Clips from WebDataset shards, endlessly, in the same global order whatever the number of processes.

    What cannot be used is skipped, and listed in skipped.jsonl in the Trainer's default_root_dir.

    Args:
        shards: folder, glob or brace pattern of .tar files, here or behind http(s)://, s3:// or gs://.
        batch: clips a process and step.
        frames: latent frames wanted (pictures, for video), from the start of each clip; null gives them whole.
        seed: of the order.
        workers: loader processes (0: read in the training process).
        want: latents as stored, or video in [-1, 1].
        max_skipped_share: share of unusable samples that are skipped; more are refused.
        memory_gb: decoded clips are kept in memory up to this much.
        read_timeout_s: of one read, which is tried three times.
        actions: hand out the actions of shards that have them; false leaves them unread, for a network without.
    """

    def __init__(
        self,
        shards: str,
        batch: int = 16,
        frames: int | None = None,
        seed: int = 0,
        workers: int = 0,
        want: Literal["latents", "video"] = "latents",
        max_skipped_share: float = 0.05,
        memory_gb: float = 2.0,
        read_timeout_s: float = 60.0,
        actions: bool = True,
    ) -> None:
        super().__init__(shards, batch, seed, workers, max_skipped_share, memory_gb, read_timeout_s, actions)
        if frames is not None and frames < 1:
            raise ValueError(f"data.frames is {frames}: give 1 or more, or null for whole clips")
        self.frames, self.want = frames, want

    def read(self) -> ShardDataset:
        return self.open_rows("mp4" if self.want == "video" else "latent.npy", self.frames)

    def setup(self, stage: str | None = None) -> None:
        begins = self.rows is None and stage == "fit"
        super().setup(stage)
        if begins and (told := few_clips(len(self.there()), self.there().shards, _index(Path(self.shards)))):
            rank_zero_info(f"[adastate] {told}")

    def batches(self, rank: int = 0, world: int = 1) -> BatchStream:
        return self.there().batches(_clip_batch, self.batch, rank, world)

    def identity(self) -> dict[str, Any]:
        return self.identity_as(f"shards of {self.want}")


def _index(folder: Path) -> dict[str, Any]:
    """What is told of the set in its folder; nothing of a pattern or a server."""
    try:
        return read_manifest(folder) if folder.is_dir() else {}
    except ShardError:  # whoever reads the shards has said so, or can do without
        return {}


def _clip_batch(rows: ShardDataset, indices: range) -> Batch:
    got = [rows[i] for i in indices]
    content = torch.stack([row.content for row in got])
    video = rows.kind == "mp4"
    actions = [row.actions for row in got if row.actions is not None]  # of all rows or of none, see ShardDataset
    return Batch(
        index=torch.tensor(indices),
        prompts=[row.prompt for row in got],
        video=to_float(content) if video else None,
        latents=None if video else content.float(),
        actions=torch.stack(actions).float() if actions else None,
    )
