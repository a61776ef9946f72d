"""Teacher trajectories from the LMDB files that CausVid, Self-Forcing and Causal-Forcing publish.

An environment holds, for N pairs,

    latents_shape          "N J F C H W" in decimal digits
    latents_{i}_data       float16, C order, from noise to clip
    prompts_{i}_data       utf-8

and nothing of the levels, which belong to the run that made them. Nothing is unpickled. What the shape claims is
compared with the bytes that are there before anything is made of it; LMDB itself maps the file and is trusted to find
keys in it, so take such files from people whom you trust not to attack it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from datamodules.shards.safe_decode import MAX_CONTENT, MAX_WORDS
from datamodules.shards.shard_error import ShardError

_AXES = "N J F C H W"
_MOST = 1 << 24
"""Of any one axis."""


class LmdbPairs:
    """Trajectories `[J, F, C, H, W]` and prompts of a published LMDB, or of all those in a folder, by number.

    Args:
        folder: an LMDB (a folder with data.mdb, or the file), or a folder of such.

    Raises:
        ShardError: no LMDB there, the package is missing, or what a file claims cannot be.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._parts = [(path, _shape(path)) for path in _environments(folder)]
        shapes = {shape[1:]: path for path, shape in self._parts}
        if len(shapes) > 1:
            told = "; ".join(f"{path.name} {list(shape)}" for shape, path in shapes.items())
            raise ShardError(f"{folder} holds pairs of different shapes: {told}; import them into folders of their own")
        self.shape: tuple[int, ...] = self._parts[0][1][1:]

    def __len__(self) -> int:
        return sum(shape[0] for _, shape in self._parts)

    def rows(self, numbers: Sequence[int]) -> Iterator[tuple[int, Tensor, str]]:
        """(number, trajectory, prompt) of each of `numbers`, which rise.

        Raises:
            ShardError: a pair that is missing, or not as long as the shape says; a prompt that is none.
        """
        first = 0
        for path, shape in self._parts:
            mine = [n for n in numbers if first <= n < first + shape[0]]
            if mine:
                with _opened(path) as read:
                    for n in mine:
                        yield n, *_pair(read, path, n - first, shape[1:])
            first += shape[0]


def _pair(read: Any, path: Path, row: int, shape: tuple[int, ...]) -> tuple[Tensor, str]:
    data, words = read(f"latents_{row}_data"), read(f"prompts_{row}_data")
    if data is None or words is None:
        missing = "latents" if data is None else "prompts"
        raise ShardError(
            f"{path}: it has no {missing}_{row}_data, although its shape includes it: download the file again"
        )
    wanted = 2 * math.prod(shape)
    if len(data) != wanted:
        raise ShardError(f"{path}: pair {row} has {len(data)} bytes, its shape {list(shape)} in float16 has {wanted}")
    if len(words) > MAX_WORDS:
        raise ShardError(f"{path}: pair {row} has a prompt of {len(words)} bytes, at most {MAX_WORDS}")
    try:
        prompt = bytes(words).decode("utf-8-sig").strip()
    except UnicodeDecodeError as error:
        raise ShardError(f"{path}: the prompt of pair {row} is not utf-8") from error
    return torch.from_numpy(np.frombuffer(bytearray(data), "<f2").reshape(shape)), prompt


def _shape(path: Path) -> tuple[int, ...]:
    with _opened(path) as read:
        found, entries = read("latents_shape"), read.entries
        told = None if found is None else bytes(found[:200])  # the buffer is gone with the environment
    if told is None:
        raise ShardError(f"{path} has no latents_shape, so its pairs are not in the public layout")
    words = told.split()
    if len(words) != 6 or not all(word.isdigit() and len(word) < 10 for word in words):
        raise ShardError(f"{path}: latents_shape is {told[:80]!r}, not six whole numbers {_AXES}")
    shape = tuple(int(word) for word in words)
    if min(shape) < 1 or max(shape) > _MOST or 2 * math.prod(shape[1:]) > MAX_CONTENT:
        raise ShardError(f"{path}: latents_shape claims {list(shape)}: a pair has at most {MAX_CONTENT} bytes")
    if 2 * shape[0] > entries:
        raise ShardError(f"{path}: latents_shape claims {shape[0]} pairs, the file has {entries} entries in all")
    if shape[1] < 2:
        raise ShardError(f"{path} holds clips and no paths: its pairs have {shape[1]} entry, at least 2 are needed")
    return shape


def _environments(folder: Path) -> list[Path]:
    if folder.is_file() or (folder / "data.mdb").is_file():
        return [folder]
    found = sorted(path.parent for path in folder.glob("*/data.mdb")) if folder.is_dir() else []
    if not found:
        raise ShardError(f"no LMDB at {folder}: give the folder with data.mdb in it, or a folder of such folders")
    return found


class _Read:
    """The value of a key, None if there is none; valid while the environment is open."""

    def __init__(self, transaction: Any, entries: int) -> None:
        self.entries = entries
        self._transaction = transaction

    def __call__(self, key: str) -> Any:
        return self._transaction.get(key.encode())


def _require_whole(path: Path, promised: int) -> None:
    """A page that is mapped and not there ends the process by a signal, without a word."""
    there = (path / "data.mdb" if path.is_dir() else path).stat().st_size
    if there < promised:
        raise ShardError(f"{path} is truncated, {there} of {promised} bytes: fetch it again")


@contextmanager
def _opened(path: Path) -> Iterator[_Read]:
    try:
        import lmdb
    except ImportError as error:
        raise ShardError("reading an LMDB needs the package lmdb: pip install -e '.[lmdb]'") from error
    try:
        with lmdb.open(str(path), readonly=True, lock=False, readahead=False, subdir=path.is_dir()) as environment:
            _require_whole(path, (environment.info()["last_pgno"] + 1) * environment.stat()["psize"])
            with environment.begin(buffers=True) as transaction:
                yield _Read(transaction, int(environment.stat()["entries"]))
    except (lmdb.Error, MemoryError) as error:
        raise ShardError(f"{path} cannot be read as an LMDB ({error}): fetch it again") from error
