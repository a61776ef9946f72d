"""Teacher trajectories in shards, written once and read endlessly; and the ShardWriter, which `make` shares.

A trajectory is what a sampler passed through on its way from noise to data; ODE initialisation learns from it.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader
from webdataset import TarWriter  # type: ignore[import-untyped]

from adastate.types import Batch
from datamodules.prompts import Batches, train_loader
from datamodules.shards import Rows, Sample, ShardError, read_facts, read_shard


class ShardWriter:
    """Writes samples into numbered tar shards; a shard is whole or absent.

    A shard grows under a temporary name and is renamed when it is whole; then index.json, the list of whole shards,
    is rewritten. Opened again it goes on: what an interruption left half-written is removed, a last shard with room
    is filled up, and `keys` tells what is there.

    Args:
        out: folder of shard-000000.tar, ... and index.json.
        per_shard: samples of a shard.
        settings: all that the samples share, kept in index.json; None takes what is there.

    Raises:
        ShardError: the folder cannot be written to, holds shards without an index.json, or other settings.
    """

    def __init__(self, out: Path, per_shard: int, settings: dict[str, Any] | None = None) -> None:
        if per_shard < 1:
            raise ShardError(f"{per_shard} clips a shard: give 1 or more")
        try:
            out.mkdir(parents=True, exist_ok=True)
            self._temporary = out / "writing.tmp"
            self._temporary.write_bytes(b"")
            self._temporary.unlink()  # also what an interruption left there
        except OSError as error:
            raise ShardError(f"cannot write to {out} ({error.strerror}): choose another folder") from error
        self.out, self.per_shard = out, per_shard
        manifest = read_manifest(out)
        if not manifest and any(out.glob("*.tar")):
            raise ShardError(f"{out} holds .tar files and no index.json, so they are not ours: choose another folder")
        stored = manifest.get("settings", settings or {})
        self.settings: dict[str, Any] = stored if settings is None else settings
        if stored != self.settings:
            raise ShardError(f"{out} holds samples made with {stored}, not {self.settings}: choose another folder")
        self.sources: dict[str, Any] = manifest.get("sources", {})
        self.shards: dict[str, dict[str, Any]] = {}
        self._keys: dict[str, set[str]] = {}  # of the samples of each whole shard
        self._writing: set[str] = set()
        self._tar: TarWriter | None = None
        self._adopt({entry["name"]: entry for entry in manifest.get("shards", [])})
        self._save()

    def keys(self) -> set[str]:
        """Of the samples in whole shards."""
        return set().union(*self._keys.values())

    def add(self, key: str, members: Mapping[str, bytes]) -> None:
        """Appends one sample; `members` maps kinds (`txt`, `latent.npy`, ...) to bytes."""
        if not re.fullmatch(r"[\w-]+", key):
            raise ShardError(f"key {key!r}: use letters, digits, _ and -, because a dot would end it")
        if key in self._writing or any(key in keys for keys in self._keys.values()):
            raise ShardError(f"key {key!r} is in {self.out} already: each sample needs one of its own")
        if self._tar is None:
            self._begin()
        self._put(key, members)
        if len(self._writing) == self.per_shard:
            self._finish()

    def retain(self, keep: Callable[[str], bool]) -> None:
        """Removes the whole samples whose key is not to be kept; shards without such are not touched."""
        for name in [name for name, keys in self._keys.items() if not all(map(keep, keys))]:
            self._open(name)
            self._copy(name, keep)
            if self._writing:
                self._finish()
            else:
                self.abort()
                del self.shards[name], self._keys[name]
                self._save()
                (self.out / name).unlink()

    def close(self) -> None:
        """Ends the last shard, however many samples it has, and writes index.json."""
        if self._tar is not None:
            self._finish()
        self._save()

    def abort(self) -> None:
        """Drops the shard in the making; the whole ones stay."""
        if self._tar is not None:
            with suppress(OSError):  # on a full disk even the end of the file cannot be written
                self._tar.close()
                self._file.close()
            self._temporary.unlink()
        self._tar, self._writing = None, set()

    def __enter__(self) -> ShardWriter:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        self.close() if kind is None else self.abort()

    def _adopt(self, listed: dict[str, dict[str, Any]]) -> None:
        """Takes over the whole shards of the folder, those included that an interruption kept out of index.json."""
        for path in sorted(self.out.glob("shard-*.tar")):
            try:
                keys = {sample.key for sample in read_shard(path)}
            except ShardError as error:
                warnings.warn(f"{error}; it is removed, and its samples are made again", stacklevel=3)
                path.unlink()
                continue
            entry = listed.get(path.name, {})
            self._register(path, keys, entry if entry.get("bytes") == path.stat().st_size else None)

    def _register(self, path: Path, keys: set[str], entry: dict[str, Any] | None = None) -> None:
        self._keys[path.name] = keys
        told = {"name": path.name, "samples": len(keys), "bytes": path.stat().st_size}
        self.shards[path.name] = entry or told | {"sha256": sha256(path)}

    def _begin(self) -> None:
        last = max(self.shards, default="")
        if last and len(self._keys[last]) < self.per_shard:
            self._open(last)
            self._copy(last, lambda key: True)
        else:
            self._open(f"shard-{int(last[6:-4]) + 1 if last else 0:06d}.tar")

    def _open(self, name: str) -> None:
        self._name = name
        self._file = self._temporary.open("wb")
        self._tar = TarWriter(self._file, encoder=False, mtime=0)

    def _put(self, key: str, members: Mapping[str, bytes]) -> None:
        assert self._tar is not None
        self._tar.write({"__key__": key, **members})
        self._writing.add(key)

    def _copy(self, name: str, keep: Callable[[str], bool]) -> None:
        for sample in read_shard(self.out / name):
            if keep(sample.key):
                self._put(sample.key, {kind: sample.read(kind) for kind in sample.members})

    def _finish(self) -> None:
        assert self._tar is not None
        self._tar.close()
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        path = self._temporary.replace(self.out / self._name)
        self._register(path, self._writing)
        self._tar, self._writing = None, set()
        self._save()

    def _save(self) -> None:
        manifest = {"settings": self.settings, "shards": list(self.shards.values()), "sources": self.sources}
        text = json.dumps(manifest, indent=1, sort_keys=True) + "\n"
        index = self.out / "index.json"
        if not index.is_file() or index.read_text() != text:
            self.out.joinpath("index.tmp").write_text(text)
            self.out.joinpath("index.tmp").replace(index)


def read_manifest(out: Path) -> dict[str, Any]:
    """What index.json says of a folder of shards; empty if there is none."""
    path = out / "index.json"
    try:
        return json.loads(path.read_text()) if path.is_file() else {}
    except ValueError as error:
        raise ShardError(f"{path} is not readable ({error}): delete the folder and make it again") from error


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def npy(values: Tensor) -> bytes:
    """A tensor as a float16 .npy file.

    Raises:
        ShardError: a number that is not finite, or too large for float16.
    """
    half = values.detach().cpu().half()
    if not half.isfinite().all():
        raise ShardError("numbers not finite in float16 cannot be stored: the model that made them has diverged")
    out = io.BytesIO()
    np.save(out, half.numpy(), allow_pickle=False)
    return out.getvalue()


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
