"""Teacher trajectories in shards, written once and read endlessly.

A trajectory is what a sampler passed through on its way from noise to data; ODE initialisation learns from it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from adastate.types import Batch
from datamodules.prompts import Batches, train_loader
from datamodules.shards import Rows, Sample, ShardError, read_facts
from datamodules.writer import ShardWriter, npy


class TrajectoryWriter:
    """Writes trajectories into shards; opened again, it goes on (`done_keys` tells what need not be made again).

    All trajectories of a folder share their levels. Use it as a context manager, or call `close`: what is not in a
    whole shard by then is lost.
    """

    def __init__(self, out: Path, per_shard: int = 256) -> None:
        self._writer = ShardWriter(out, per_shard)
        if self._writer.settings.setdefault("kind", "trajectories") != "trajectories":
            raise ShardError(f"{out} holds {self._writer.settings['kind']}: write trajectories into another folder")

    def done_keys(self) -> set[str]:
        """Keys in whole shards."""
        return self._writer.keys()

    def add(
        self,
        key: str,
        trajectory: Tensor,
        levels: Sequence[float] | Tensor,
        prompt: str,
        facts: Mapping[str, Any] | None = None,
    ) -> None:
        """Appends one trajectory.

        Args:
            key: of letters, digits, _ and -.
            trajectory: `[J, F, C, H, W]` from noise to data.
            levels: the J timesteps in [0, 1000].
            prompt: it was made with.
            facts: more that is known of it, as JSON.

        Raises:
            ShardError: shape and levels disagree, other levels than before, or numbers that are not finite.
        """
        told = [float(level) for level in levels]
        if trajectory.ndim != 5 or len(trajectory) != len(told):
            shape = list(trajectory.shape)
            raise ShardError(
                f"{key}: a trajectory is [J, F, C, H, W] with J levels, got {shape} and {len(told)} levels"
            )
        if self._writer.settings.setdefault("levels", told) != told:
            raise ShardError(
                f"{key}: its levels are {told}, those in {self._writer.out} {self._writer.settings['levels']}: "
                "write other levels into another folder"
            )
        words = json.dumps({**(facts or {}), "levels": told}, sort_keys=True).encode()
        self._writer.add(key, {"trajectory.npy": npy(trajectory), "txt": prompt.encode(), "json": words})

    def close(self) -> None:
        self._writer.close()

    def __enter__(self) -> TrajectoryWriter:
        return self

    def __exit__(self, *raised: object) -> None:
        self._writer.__exit__(*raised)


class TrajectoryData(pl.LightningDataModule):
    """Trajectories from shards, endlessly, in the same global order whatever the number of processes.

    `latents` is the end of each trajectory.

    Args:
        shards: folder, glob or brace pattern of local .tar files.
        batch: trajectories a process and step.
        seed: of the order.
        workers: loader processes (0: read in the training process).
        forgive: share of unusable samples that are skipped; more are refused.
        memory_gb: trajectories are kept in memory up to this much.
    """

    def __init__(
        self,
        shards: str,
        batch: int = 16,
        seed: int = 0,
        workers: int = 0,
        forgive: float = 0.1,
        memory_gb: float = 2.0,
    ) -> None:
        super().__init__()
        self.shards, self.batch, self.seed, self.workers = shards, batch, seed, workers
        self.forgive, self.memory_gb = forgive, memory_gb
        self.rows: Rows | None = None

    @property
    def skipped(self) -> dict[str, int]:
        """Bad samples met so far, by cause; loader workers count for themselves."""
        return dict(self.rows.skipped) if self.rows else {}

    def setup(self, stage: str | None = None) -> None:
        if self.rows is None:
            rows = Rows(self.shards, "trajectory.npy", None, self.seed, self.forgive, self.memory_gb)
            self.levels = shared_levels(rows.samples, rows.shape[0])
            self.rows = rows

    def batches(self, rank: int = 0, world: int = 1) -> Batches:
        self.setup()
        assert self.rows is not None
        return self.rows.batches(partial(_trajectory_batch, self.levels), self.batch, rank, world)

    def train_dataloader(self) -> DataLoader[Batch]:
        return train_loader(self, self.batches, self.workers)


def shared_levels(samples: Sequence[Sample], entries: int) -> Tensor:
    """The levels `[J]` of all the samples, from their facts alone: a mixed set is refused before training.

    Raises:
        ShardError: a sample without levels, with other levels than the first, or not `entries` of them.
    """
    first: list[float] = []
    for sample in samples:
        levels = read_facts(sample).get("levels")
        name = f"{sample.shard.name}: {sample.key}"
        if not isinstance(levels, list) or len(levels) != entries:
            raise ShardError(f"{name} has the levels {levels}, not {entries} of them in its .json: make the set again")
        first = first or levels
        if levels != first:
            raise ShardError(f"{name} has the levels {levels}, others have {first}: keep them in folders of their own")
    return torch.tensor(first, dtype=torch.float32)


def _trajectory_batch(levels: Tensor, rows: Rows, indices: range) -> Batch:
    got = [rows[i] for i in indices]
    trajectory = torch.stack([row.content for row in got]).float()
    return Batch(
        index=torch.tensor(indices),
        prompts=[row.prompt for row in got],
        latents=trajectory[:, -1],
        trajectory=trajectory,
        levels=levels,
        facts=[row.facts for row in got],
    )
