"""Writes samples into WebDataset shards, atomically, and continues after an interruption.

Several processes can fill one folder, each with its own shard names; `join` merges their indices at the end.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
import warnings
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from webdataset import TarWriter  # type: ignore[import-untyped]

from adastate.runtime import atomic
from adastate.runtime.plain_json import load_json
from datamodules.shards.identity import spots
from datamodules.shards.index import read_shard
from datamodules.shards.shard_error import ShardError


class ShardWriter:
    """Writes samples into numbered tar shards; a shard is complete or absent.

    A shard is written under a temporary name and renamed when it is complete; then index.json, the list of complete
    shards, is rewritten. When reopened it continues: partial files of an interruption are removed, a last shard with
    room is filled up, and `keys` gives the existing samples.

    Process r of several writes shard-00r-000000.tar, ... and index-00r.json, and does not touch files of the others. It
    takes over the partial work of processes r + world, r + 2 world, ... of an earlier, larger world.

    Args:
        out: folder of shard-000000.tar, ... and index.json.
        per_shard: samples per shard.
        settings: everything that the samples share, stored in index.json; None accepts the stored ones.
        rank, world: this process among those that write into the folder.

    Raises:
        ShardError: the folder cannot be written to, contains shards without an index.json, or has other settings.
    """

    def __init__(
        self, out: Path, per_shard: int, settings: dict[str, Any] | None = None, rank: int = 0, world: int = 1
    ) -> None:
        if per_shard < 1:
            raise ShardError(f"{per_shard} clips per shard: give 1 or more")
        self._alone, self._rank, self._world = world == 1, rank, world
        tag = "" if self._alone else f"-{rank:03d}"
        self._prefix, self._index = f"shard{tag}-", out / f"index{tag}.json"
        try:
            out.mkdir(parents=True, exist_ok=True)
            self._temporary = out / f"writing{tag}.tmp"
            self._temporary.write_bytes(b"")
            self._temporary.unlink()  # may be left from an interruption
        except OSError as error:
            raise ShardError(f"cannot write to {out} ({error.strerror}): choose another folder") from error
        self.out, self.per_shard = out, per_shard
        manifest = read_manifest(out)
        if not manifest and any(out.glob("*.tar")):
            raise ShardError(
                f"{out} contains .tar files but no index.json, so they are not from this project: choose another folder"
            )
        stored = manifest.get("settings", settings or {})
        self.settings: dict[str, Any] = stored if settings is None else settings
        if stored != self.settings:
            raise ShardError(f"{out} contains samples made with {stored}, not {self.settings}: choose another folder")
        self.sources: dict[str, Any] = manifest.get("sources", {})
        self.shards: dict[str, dict[str, Any]] = {}
        self._keys: dict[str, set[str]] = {}  # of the samples in each complete shard
        self._others: dict[str, set[str]] = {}  # of those of other processes
        self._writing: set[str] = set()
        self._tar: TarWriter | None = None
        self._adopt({entry["name"]: entry for entry in manifest.get("shards", [])})
        self._save()

    def keys(self) -> set[str]:
        """Keys of the samples in complete shards, including those of other processes at the time this one started."""
        return set().union(*self._keys.values(), *self._others.values())

    def add(self, key: str, members: Mapping[str, bytes]) -> None:
        """Appends one sample; `members` maps kinds (`txt`, `latent.npy`, ...) to bytes."""
        if not re.fullmatch(r"[\w-]+", key):
            raise ShardError(f"key {key!r}: use letters, digits, _ and -, as a dot would end it")
        if key in self._writing or any(key in keys for keys in (*self._keys.values(), *self._others.values())):
            raise ShardError(f"key {key!r} is already in {self.out}: each sample needs its own")
        if self._tar is None:
            self._begin()
        self._put(key, members)
        if len(self._writing) == self.per_shard:
            self._finish()

    def retain(self, keep: Callable[[str], bool]) -> None:
        """Removes all stored samples whose key `keep` rejects; shards without such samples are not touched."""
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
        """Finishes the last shard, however many samples it has, and writes index.json."""
        if self._tar is not None:
            self._finish()
        self._save()

    def abort(self) -> None:
        """Discards the unfinished shard; complete ones stay."""
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
        """Registers the complete shards of the folder, including any that an interruption kept out of index.json."""
        for path in sorted(self.out.glob("shard-*.tar")):
            owner = owner_of(path.name)
            mine = self._alone or (owner or 0) % self._world == self._rank
            try:
                keys = {sample.key for sample in read_shard(path)}
            except ShardError as error:
                if mine:
                    warnings.warn(f"{error}; it is removed, and its samples are recreated", stacklevel=3)
                    path.unlink()
                continue
            if not self._alone and owner != self._rank:
                self._others[path.name] = keys
                continue
            entry = listed.get(path.name, {})
            self._register(path, keys, entry if entry.get("bytes") == path.stat().st_size else None)
        for path in self.out.glob("writing-*.tmp"):
            if (owner_of(path.name) or 0) % self._world == self._rank and path != self._temporary:
                path.unlink(missing_ok=True)
        if self._alone:
            for path in self.out.glob("index-*.json"):
                path.unlink()  # their contents are now in index.json

    def _register(self, path: Path, keys: set[str], entry: dict[str, Any] | None = None) -> None:
        self._keys[path.name] = keys
        self.shards[path.name] = entry or shard_facts(path, len(keys))

    def _begin(self) -> None:
        last = max((name for name in self.shards if owner_of(name) == self._owner), default="")
        if last and len(self._keys[last]) < self.per_shard:
            self._open(last)
            self._copy(last, lambda key: True)
        else:
            self._open(f"{self._prefix}{int(last[-10:-4]) + 1 if last else 0:06d}.tar")

    @property
    def _owner(self) -> int | None:
        return None if self._alone else self._rank

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
        self._file.close()
        path = atomic.settle(self._temporary, self.out / self._name, durable=True)
        self._register(path, self._writing)
        self._tar, self._writing = None, set()
        self._save()

    def _save(self) -> None:
        write_index(self._index, self.settings, self.shards, self.sources)


def write_index(
    path: Path,
    settings: Mapping[str, Any],
    shards: Mapping[str, dict[str, Any]],
    sources: Mapping[str, Any],
    by: int | None = None,
) -> None:
    """Replaces an index atomically, if it changes; `by` identifies the process if there are several."""
    manifest = {"settings": settings, "shards": [shards[name] for name in sorted(shards)], "sources": sources}
    text = json.dumps(manifest, indent=1, sort_keys=True) + "\n"
    if not path.is_file() or path.read_text(encoding="utf-8") != text:
        atomic.write_text(path, text, "" if by is None else f"{by:03d}", durable=True)


def join(out: Path, wanted: set[str], rank: int) -> bool:
    """Merges the indices of several processes into one index.json, if all the `wanted` keys are there.

    Every process calls it after writing its share. The last one finds everything; if two are last, they write the same.
    Returns whether everything is there.

    Raises:
        ShardError: a key is in two shards, or the processes had different settings.
    """
    manifest = read_manifest(out)
    listed = {entry["name"]: entry for entry in manifest.get("shards", [])}
    shards: dict[str, dict[str, Any]] = {}
    where: dict[str, str] = {}
    for path in sorted(out.glob("shard-*.tar")):
        try:
            keys = [sample.key for sample in read_shard(path)]
        except ShardError:
            if path.exists():
                raise
            return False  # damaged: removed by the process that recreates it
        for key in keys:
            if key in where:
                raise ShardError(
                    f"{out}: {key} is in {where[key]} and in {path.name}, so two runs wrote there at the same time: "
                    f"delete {path.name} and run again"
                )
            where[key] = path.name
        entry = listed.get(path.name, {})
        whole = entry.get("bytes") == path.stat().st_size and entry.get("samples") == len(keys)
        shards[path.name] = entry if whole else shard_facts(path, len(keys))
    if not wanted <= where.keys():
        return False
    write_index(out / "index.json", manifest.get("settings", {}), shards, manifest.get("sources", {}), rank)
    for path in out.glob("index-*.json"):
        path.unlink(missing_ok=True)
    return True


def owner_of(name: str) -> int | None:
    """The process that wrote shard-003-000001.tar, index-003.json or writing-003.tmp; None if it was the only one."""
    found = re.fullmatch(r"(?:shard-(\d{3,})-\d{6}\.tar|index-(\d{3,})\.json|writing-(\d{3,})\.tmp)", name)
    return int(next(group for group in found.groups() if group)) if found else None


def shard_facts(path: Path, samples: int) -> dict[str, Any]:
    """A shard's entry in an index."""
    size, digest = path.stat().st_size, sha256(path)
    return {"name": path.name, "samples": samples, "bytes": size, "sha256": digest, "spots": spots(path)}


def read_manifest(out: Path) -> dict[str, Any]:
    """Merged contents of index.json and of the indices that several processes are writing in a folder; empty if none.

    Raises:
        ShardError: one of them is not readable, or they have different settings.
    """
    told: dict[str, Any] = {}
    for path in [*out.glob("index.json"), *sorted(out.glob("index-*.json"))]:
        try:
            found = load_json(path.read_text(encoding="utf-8"))
        except FileNotFoundError:  # another process has merged them in the meantime
            continue
        except ValueError as error:
            raise ShardError(f"{path} is not readable ({error}): delete and recreate the folder") from error
        if not told:
            told = found
            continue
        for name, value in found.get("settings", {}).items():
            if told["settings"].setdefault(name, value) != value:
                raise ShardError(
                    f"{out}: {path.name} has {name} {value}, another index {told['settings'][name]}: choose "
                    "another folder"
                )
        entries = {entry["name"]: entry for entry in [*told.get("shards", []), *found.get("shards", [])]}
        told["shards"] = list(entries.values())
        told["sources"] = {**told.get("sources", {}), **found.get("sources", {})}
    return told


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def npy(values: Tensor, dtype: torch.dtype = torch.float16) -> bytes:
    """A tensor as a .npy file of `dtype`.

    Raises:
        ShardError: a number that is not finite, or too large for float16.
    """
    stored = values.detach().cpu().to(dtype)
    if not stored.isfinite().all():
        raise ShardError(
            "numbers that are not finite in float16 cannot be stored: the model that made them has diverged"
        )
    out = io.BytesIO()
    np.save(out, stored.numpy(), allow_pickle=False)
    return out.getvalue()
