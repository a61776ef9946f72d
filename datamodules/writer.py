"""Writing samples into WebDataset shards: whole or absent, and gone on with after an interruption."""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import warnings
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor
from webdataset import TarWriter  # type: ignore[import-untyped]

from datamodules.shards import ShardError, read_shard


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
