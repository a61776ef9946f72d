"""Teacher trajectories in shards, written once and read endlessly.

A trajectory is what a sampler passed through on its way from noise to data; ODE initialisation learns from it. Where
a causal sampler had clips for its past that are not its own ends, they are the last entry: there are two then at level
0, the end of the path and the past. Causal-Forcing's public pairs are laid out so, too.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from adastate.types import Batch
from datamodules.from_shards import FromShards
from datamodules.shards.clip_reader import with_past
from datamodules.shards.dataset import ShardDataset
from datamodules.shards.decode import ACTIONS
from datamodules.shards.index import BadSample, Sample, find_shards, read_shard
from datamodules.shards.safe_decode import read_actions
from datamodules.shards.sampler import BatchStream
from datamodules.shards.shard_error import ShardError
from datamodules.shards.shard_writer import ShardWriter, npy


class TrajectoryWriter:
    """Writes trajectories into shards; opened again, it goes on (`done_keys` tells what need not be made again).

    All trajectories of a folder share their levels. Use it as a context manager, or call `close`: what is not in a
    whole shard by then is lost.

    Args:
        out: folder of the shards.
        per_shard: trajectories in each.
        made_with: how they are made (seed, steps, ...); a folder keeps what was made in one way.
        rank, world: see ShardWriter.

    Raises:
        ShardError: the folder holds something else, or what was made in another way.
    """

    def __init__(
        self,
        out: Path,
        per_shard: int = 256,
        made_with: Mapping[str, Any] | None = None,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        self._writer = ShardWriter(out, per_shard, rank=rank, world=world)
        told = self._writer.settings
        if told.setdefault("kind", "trajectories") != "trajectories":
            raise ShardError(f"{out} holds {told['kind']}: write trajectories into another folder")
        for name, value in (made_with or {}).items():
            if told.setdefault(name, value) != value:
                raise ShardError(
                    f"{out} holds trajectories made with {name} {told[name]}, not {value}: write others into another "
                    "folder"
                )

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
        actions: Tensor | None = None,
    ) -> None:
        """Appends one trajectory.

        Args:
            key: of letters, digits, _ and -.
            trajectory: `[J, F, C, H, W]` from noise to data.
            levels: the J timesteps in [0, 1000].
            prompt: it was made with.
            facts: more that is known of it, as JSON.
            actions: 0/1 columns `[F, A]` that it was steered by, of all trajectories of a folder or of none.

        Raises:
            ShardError: shape, levels and actions disagree, other levels than before, or numbers that are not finite.
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
        if actions is not None and (actions.ndim != 2 or len(actions) != trajectory.shape[1]):
            raise ShardError(
                f"{key}: its actions are {list(actions.shape)}, and a trajectory of {trajectory.shape[1]} frames has a "
                "row for each"
            )
        words = json.dumps({**(facts or {}), "levels": told}, sort_keys=True).encode()
        members = {"trajectory.npy": npy(trajectory), "txt": prompt.encode(), "json": words}
        self._writer.add(key, members if actions is None else {**members, ACTIONS: npy(actions, torch.uint8)})

    def close(self) -> None:
        self._writer.close()

    def __enter__(self) -> TrajectoryWriter:
        return self

    def __exit__(self, *raised: object) -> None:
        self._writer.__exit__(*raised)


class TrajectoryData(FromShards):
    """Trajectories from shards, endlessly, in the same global order whatever the number of processes.

    `latents` is what was, or can be, the clean past of each trajectory: the clip stored with it, or else its own end.
    `actions` are those that they were steered by, where they were. What cannot be used is skipped, as in ShardData.

    Args:
        shards: folder, glob or brace pattern of .tar files, here or behind http(s)://, s3:// or gs://.
        batch: trajectories a process and step.
        seed: of the order.
        workers: loader processes (0: read in the training process).
        max_skipped_share: share of unusable samples that are skipped; more are refused.
        memory_gb: trajectories are kept in memory up to this much.
        read_timeout_s: of one read, which is tried three times.
        actions: hand out the actions of trajectories that have them; false leaves them unread, for a network without.
    """

    def __init__(
        self,
        shards: str,
        batch: int = 16,
        seed: int = 0,
        workers: int = 0,
        max_skipped_share: float = 0.05,
        memory_gb: float = 2.0,
        read_timeout_s: float = 60.0,
        actions: bool = True,
    ) -> None:
        super().__init__(shards, batch, seed, workers, max_skipped_share, memory_gb, read_timeout_s, actions)

    def read(self) -> ShardDataset:
        rows = self.open_rows("trajectory.npy")
        levels = shared_levels(rows)
        rows.require_facts(partial(require_levels, levels, rows.shape[0]))
        self.levels = torch.tensor(levels, dtype=torch.float32)
        return rows

    def batches(self, rank: int = 0, world: int = 1) -> BatchStream:
        rows = self.there()  # which knows the levels
        return rows.batches(partial(_trajectory_batch, self.levels), self.batch, rank, world)

    def identity(self) -> dict[str, Any]:
        return self.identity_as("trajectories")


def shared_levels(rows: ShardDataset) -> list[float]:
    """The levels that most of a set's first good samples have; none if they tell none."""
    told = [row.facts.get("levels") for row in rows.probes if row.content.shape == rows.shape]
    usable: list[list[float]] = [x for x in told if x is not None and _are_levels(x, rows.shape[0])]
    return max(usable, key=usable.count) if usable else []


def require_levels(levels: list[float], entries: int, sample: Sample, facts: Mapping[str, Any]) -> None:
    """Raises BadSample for a sample without levels, with others than `levels`, or not `entries` of them."""
    has = facts.get("levels")
    if not _are_levels(has, entries):
        told = f"has the levels {str(has)[:100]}, not {entries} of them in its .json: make the set again"
        raise BadSample("no levels", sample, told)
    if has != levels:
        told = f"has the levels {has}, others have {levels}: keep them in folders of their own"
        raise BadSample("other levels", sample, told)


def _are_levels(levels: Any, entries: int) -> bool:
    return isinstance(levels, list) and len(levels) == entries and all(type(x) in (int, float) for x in levels)


def actions_by_number(shards: str, frames: int) -> Callable[[list[int]], Tensor] | None:
    """Actions `[B, frames, A]` of the clips that Clips counts in the same way; None where the first has none.

    Raises:
        ShardError: some have none, or too few.
    """
    samples = [sample for path in find_shards(shards) for sample in read_shard(path)]
    if ACTIONS not in samples[0].members:
        return None

    def flown(numbers: list[int]) -> Tensor:
        rows = []
        for sample in (samples[number % len(samples)] for number in numbers):
            actions = read_actions(sample.read(ACTIONS)) if ACTIONS in sample.members else torch.empty(0, 0)
            if len(actions) < frames:
                told = f"has {len(actions)} rows of actions for {frames} frames, and others have them all"
                raise BadSample("other actions", sample, told)
            rows.append(actions[:frames])
        return torch.stack(rows).float()

    return flown


def _trajectory_batch(levels: Tensor, rows: ShardDataset, indices: range) -> Batch:
    got = [rows[i] for i in indices]
    entries = torch.stack([row.content for row in got]).float()
    own = len(levels) - with_past(levels)
    actions = [row.actions for row in got if row.actions is not None]  # of all rows or of none, see ShardDataset
    return Batch(
        index=torch.tensor(indices),
        prompts=[row.prompt for row in got],
        latents=entries[:, -1],
        trajectory=entries[:, :own],
        levels=levels[:own],
        actions=torch.stack(actions).float() if actions else None,
    )
