"""Reading WebDataset shards: tar files whose members `key.kind` make samples.

    key.mp4  key.latent.npy [F, C, H, W]  key.trajectory.npy [J, F, C, H, W]  key.txt caption  key.json facts

Shards are data, not programs: they are local files, never webdataset's `pipe:` commands, and only these kinds are
decoded, never pickles. A shard is indexed once by its headers and samples are then read where they lie, so that every
process reads its own rows only and any place in the order can be gone to directly.
"""

from __future__ import annotations

import glob
import io
import json
import tarfile
import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import count, groupby
from pathlib import Path
from typing import Any, Literal

import lightning.pytorch as pl
import numpy as np
import torch
from braceexpand import braceexpand
from torch import Tensor
from torch.utils.data import DataLoader
from webdataset.tariterators import group_by_keys  # type: ignore[import-untyped]

from adastate.types import Batch
from datamodules.prompts import Batches, Order, train_loader
from datamodules.video import VideoError, decode_clip, to_float

HOW_TO_MAKE = {
    "latent.npy": "`make shards VIDEOS=... LATENTS=1` writes latents",
    "mp4": "`make shards VIDEOS=...` writes video",
    "trajectory.npy": "the trajectories command writes them",
}


class ShardError(ValueError):
    """Shards that cannot be used; the sentence names the shard and the remedy."""


class BadSample(ShardError):
    """One sample that cannot be used; samples are counted by `cause`."""

    def __init__(self, cause: str, sample: Sample, detail: str) -> None:
        super().__init__(f"{sample.shard.name}: {sample.key} {detail}")
        self.cause = cause


@dataclass(frozen=True)
class Sample:
    """Where the members of one sample lie."""

    shard: Path
    key: str
    members: dict[str, tuple[int, int]]  # kind -> offset and bytes in the shard

    def read(self, kind: str) -> bytes:
        offset, size = self.members[kind]
        with self.shard.open("rb") as file:
            file.seek(offset)
            return file.read(size)


def read_shard(path: Path) -> list[Sample]:
    """The samples of one tar file, by its headers alone; grouped as webdataset groups them.

    Raises:
        ShardError: not a tar file, cut off, or without samples.
    """
    found, end = [], 0
    try:
        with tarfile.open(path, "r:") as tar:
            for member in tar:
                end = member.offset_data + -(-member.size // 512) * 512
                if member.isreg():
                    lies = (member.offset_data, member.size)
                    found.append({"fname": member.name, "data": lies, "__url__": path.name})
        if path.stat().st_size < end + 512:  # a whole tar ends with a block of zeros, even when cut between members
            raise tarfile.ReadError("its end is missing")
        grouped = list(group_by_keys(found))
    except (tarfile.TarError, ValueError) as error:
        raise ShardError(
            f"shard {path} is not a whole tar file ({error.args[0]}): delete it and make it again"
        ) from error
    if not grouped:
        raise ShardError(f"shard {path} is empty: delete it, or make it again")
    return [Sample(path, str(s["__key__"]), {k: v for k, v in s.items() if not k.startswith("__")}) for s in grouped]


def find_shards(shards: str) -> list[Path]:
    """Files of a folder, a glob or a brace pattern (`data/shard-{000000..000012}.tar`), in order of name.

    Raises:
        ShardError: nothing matches, or it is not a local path.
    """
    if "://" in shards or shards.startswith("pipe:"):
        raise ShardError(f"shards are local .tar files, not {shards!r}: copy them here first")
    found: list[Path] = []
    for pattern in braceexpand(shards):
        pattern = f"{glob.escape(pattern)}/*.tar" if Path(pattern).is_dir() else pattern
        matches = sorted(map(Path, glob.glob(pattern, recursive=True)))
        if not matches:
            raise ShardError(
                f"no shard matches {pattern}: check data.shards, or make some with `make shards VIDEOS=...`"
            )
        found += matches
    return list(dict.fromkeys(found))


@dataclass(frozen=True)
class Row:
    """One decoded sample."""

    content: Tensor  # [F, C, H, W] or [J, F, C, H, W] as stored, or [T, 3, h, w] uint8
    prompt: str
    facts: dict[str, Any]


def decode(sample: Sample, kind: str, frames: int | None = None) -> Row:
    """Reads a sample and crops it to the first `frames` latent frames (pictures of an mp4).

    Raises:
        BadSample: no caption, no `kind`, not decodable, too short, or numbers that are not finite.
    """
    require(sample, kind)
    prompt = sample.read("txt").decode("utf-8", "replace").strip()
    if not prompt:
        raise BadSample("no caption", sample, "has an empty .txt: write its caption there")
    facts, data = read_facts(sample), sample.read(kind)
    try:
        content = (
            decode_clip(data) if kind == "mp4" else torch.from_numpy(np.load(io.BytesIO(data), allow_pickle=False))
        )
    except (VideoError, ValueError, EOFError, TypeError) as error:
        raise BadSample("unreadable", sample, f"cannot be decoded ({error}): make its shard again") from error
    axes = 5 if kind == "trajectory.npy" else 4
    if content.ndim != axes:
        raise BadSample("unreadable", sample, f"has a {kind} of shape {tuple(content.shape)}, not of {axes} axes")
    axis = axes - 4  # of the frames
    if frames is not None and content.shape[axis] < frames:
        has = content.shape[axis]
        raise BadSample(
            "too short", sample, f"has {has} frames of the {frames} wanted: lower data.frames or cut longer clips"
        )
    if content.is_floating_point() and not content.isfinite().all():
        raise BadSample("not finite", sample, "holds numbers that are not finite: encode it again")
    # Cloned, because a crop would keep the whole clip in memory.
    return Row(content if frames is None else content.narrow(axis, 0, frames).clone(), prompt, facts)


def read_facts(sample: Sample) -> dict[str, Any]:
    """What the .json says; empty without one."""
    if "json" not in sample.members:
        return {}
    try:
        facts = json.loads(sample.read("json"))
    except ValueError as error:
        raise BadSample("unreadable", sample, f"has a .json that is none ({error}): make its shard again") from error
    if not isinstance(facts, dict):
        raise BadSample("unreadable", sample, "has a .json that is no object: make its shard again")
    return facts


def require(sample: Sample, kind: str) -> None:
    """Raises BadSample if the sample lacks a caption or a member of this kind."""
    has = ", ".join(sample.members)
    if kind not in sample.members:
        name = {"latent.npy": "latents", "mp4": "video", "trajectory.npy": "trajectory"}[kind]
        raise BadSample(f"no {name}", sample, f"has no {kind}, only {has}: {HOW_TO_MAKE[kind]}")
    if "txt" not in sample.members:
        raise BadSample(
            "no caption", sample, f"has no .txt, only {has}: captions lie beside the videos, then `make shards`"
        )


class Rows:
    """Decoded samples by global sample number; a bad sample gives its place to the next good one in the order.

    Samples are kept in memory up to a limit, because decoding must not slow the training of a tiny net.

    Args:
        shards: pattern, as `find_shards` takes it.
        kind: member wanted of every sample.
        frames: frames wanted, None for all.
        seed: of the order.
        forgive: share of bad samples above which the set is refused.
        memory_gb: limit of the memory, in every loader worker.

    Raises:
        ShardError: nothing usable, or more bad samples than forgiven.
    """

    def __init__(
        self, shards: str, kind: str, frames: int | None, seed: int, forgive: float = 0.1, memory_gb: float = 2.0
    ) -> None:
        self.shards, self.kind, self.frames, self.forgive = shards, kind, frames, forgive
        self.skipped: Counter[str] = Counter()
        self._examples: dict[str, str] = {}  # cause -> the first such sample
        self._memory: dict[int, Row] = {}
        self._free = memory_gb * 2**30
        indexed = [sample for path in find_shards(shards) for sample in read_shard(path)]
        self.samples = [sample for sample in indexed if self._complete(sample)]
        self._refuse_if_many(len(indexed))
        self._total, self._tries = len(indexed), self.skipped.total()
        self._tried, self._bad = bytearray(len(self)), bytearray(len(self))
        self.order = Order([len(list(group)) for _, group in groupby(self.samples, lambda s: s.shard)], seed)
        # The first good sample sets the shape, and not the first to be read, which differs between processes.
        self.shape = torch.Size()
        first = next((row for n in range(len(self)) if (row := self._load(n))), None)
        if first is None:
            raise ShardError(f"none of the {self._total} samples of {shards} can be used: {dict(self.skipped)}")
        self.shape = first.content.shape

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, position: int) -> Row:
        return next(row for p in count(position) if (row := self._load(self.order[p])))

    def batches(self, collate: Callable[[Rows, range], Batch], batch: int, rank: int, world: int) -> Batches:
        """Endless batches of `collate(self, global sample numbers)`.

        Raises:
            ShardError: the batch of all processes is larger than the set.
        """
        if batch * world > len(self):
            raise ShardError(
                f"a batch of {batch} in each of {world} processes is more than the {len(self)} samples "
                f"of {self.shards}: lower data.batch or make more clips"
            )
        return Batches(partial(collate, self), batch, batch * world, rank)

    def _complete(self, sample: Sample) -> bool:
        try:
            require(sample, self.kind)
        except BadSample as error:
            self._count(error)
            return False
        return True

    def _load(self, n: int) -> Row | None:
        """Sample `n`, or None if it is bad."""
        if n in self._memory or self._bad[n]:
            return self._memory.get(n)
        self._tries += not self._tried[n]
        self._tried[n] = True
        sample = self.samples[n]
        try:
            row = decode(sample, self.kind, self.frames)
            if self.shape and row.content.shape != self.shape:
                has, wanted = list(row.content.shape), list(self.shape)
                raise BadSample(
                    "another shape", sample, f"is {has}, the others {wanted}: keep sizes apart, or set data.frames"
                )
        except BadSample as error:
            self._bad[n] = True
            self._count(error)
            # The first thousand are read before the share means anything.
            self._refuse_if_many(max(self._tries, min(self._total, 1000)))
            return None
        if (size := row.content.nbytes) <= self._free:
            self._memory[n] = row
            self._free -= size
        return row

    def _count(self, error: BadSample) -> None:
        self.skipped[error.cause] += 1
        if error.cause not in self._examples:
            self._examples[error.cause] = str(error)
            warnings.warn(f"skipping a sample, {error}", stacklevel=2)

    def _refuse_if_many(self, seen: int) -> None:
        if self.skipped.total() > self.forgive * seen:
            causes = "; ".join(f"{n} with {c}, the first: {self._examples[c]}" for c, n in self.skipped.items())
            raise ShardError(f"{self.skipped.total()} of {seen} samples of {self.shards} cannot be used: {causes}")


class ShardData(pl.LightningDataModule):
    """Clips from WebDataset shards, endlessly, in the same global order whatever the number of processes.

    Args:
        shards: folder, glob or brace pattern of local .tar files.
        batch: clips a process and step.
        frames: latent frames wanted (pictures, for video), from the start of each clip; null gives them whole.
        seed: of the order.
        workers: loader processes (0: read in the training process).
        want: latents as stored, or video in [-1, 1].
        forgive: share of unusable samples that are skipped; more are refused.
        memory_gb: decoded clips are kept in memory up to this much.
    """

    def __init__(
        self,
        shards: str,
        batch: int = 16,
        frames: int | None = None,
        seed: int = 0,
        workers: int = 0,
        want: Literal["latents", "video"] = "latents",
        forgive: float = 0.1,
        memory_gb: float = 2.0,
    ) -> None:
        super().__init__()
        if frames is not None and frames < 1:
            raise ValueError(f"data.frames is {frames}: give 1 or more, or null for whole clips")
        self.shards, self.batch, self.frames, self.seed, self.workers = shards, batch, frames, seed, workers
        self.want, self.forgive, self.memory_gb = want, forgive, memory_gb
        self.rows: Rows | None = None

    @property
    def skipped(self) -> dict[str, int]:
        """Bad samples met so far, by cause; loader workers count for themselves."""
        return dict(self.rows.skipped) if self.rows else {}

    def setup(self, stage: str | None = None) -> None:
        if self.rows is None:
            kind = "mp4" if self.want == "video" else "latent.npy"
            self.rows = Rows(self.shards, kind, self.frames, self.seed, self.forgive, self.memory_gb)

    def batches(self, rank: int = 0, world: int = 1) -> Batches:
        self.setup()
        assert self.rows is not None
        return self.rows.batches(_clip_batch, self.batch, rank, world)

    def train_dataloader(self) -> DataLoader[Batch]:
        return train_loader(self, self.batches, self.workers)


def _clip_batch(rows: Rows, indices: range) -> Batch:
    got = [rows[i] for i in indices]
    content = torch.stack([row.content for row in got])
    video = rows.kind == "mp4"
    return Batch(
        index=torch.tensor(indices),
        prompts=[row.prompt for row in got],
        video=to_float(content) if video else None,
        latents=None if video else content.float(),
        facts=[row.facts for row in got],
    )
