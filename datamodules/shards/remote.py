"""Files that lie here or behind a URL, read by byte ranges, with a time limit and again after a failure.

Nothing is copied to disk: a shard is indexed by its headers and its samples are fetched where they lie.
"""

from __future__ import annotations

import glob
import json
import os
import re
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any, TypeVar

import fsspec
from braceexpand import braceexpand

from datamodules.shards.safe_decode import ShardError

T = TypeVar("T")

PROTOCOLS = ("http", "https", "s3", "gs", "gcs", "memory")
_AHEAD = 1 << 18
"""Bytes fetched at once while headers are read; members are often smaller than a round trip is long."""

_MAX_INDEX = 256 << 20
_MAX_WHOLE = 1 << 30


@dataclass(frozen=True, order=True)
class Remote:
    """A file behind a URL."""

    url: str

    @property
    def name(self) -> str:
        return re.split(r"[?#]", self.url)[0].rstrip("/").rpartition("/")[2]

    @property
    def parent(self) -> str:
        return self.url.rpartition("/")[0]

    def __str__(self) -> str:
        """Without query and password, as logs are read by others."""
        return re.sub(r"//[^/@]*@", "//", re.split(r"[?#]", self.url)[0])


File = Path | Remote


@dataclass
class Patience:
    """How long a read may take, and how often it is tried.

    Args:
        seconds: of one try.
        tries: before the file counts as out of reach; afterwards one is enough, so that a dead disk does not stop a
            whole job for each of its samples.
        pause: seconds before the second try, doubled before each one more.
    """

    seconds: float = 60.0
    tries: int = 3
    pause: float = 1.0
    _down: set[str] = field(default_factory=set)
    _helper: _Helper | None = field(default=None, repr=False)

    def __call__(self, work: Callable[[], T], of: File) -> T:
        """What `work` returns.

        Raises:
            OSError: FileNotFoundError or PermissionError at once, TimeoutError or the last failure after all tries.
        """
        tries = 1 if str(of) in self._down else self.tries
        for i in range(tries):
            try:
                found = self._within(work)
                self._down.discard(str(of))
                return found
            except (FileNotFoundError, PermissionError, IsADirectoryError, ShardError):
                raise
            except Exception as error:  # every client has failures of its own
                if getattr(error, "status", None) in (401, 403, 410):
                    raise PermissionError(f"{of} answers {error}") from error
                if i + 1 == tries:
                    self._down.add(str(of))
                    raise (
                        error if isinstance(error, OSError) else OSError(f"{type(error).__name__}: {error}")
                    ) from error
            time.sleep(self.pause * 2**i)
        raise AssertionError("unreachable")

    def _within(self, work: Callable[[], T]) -> T:
        """Runs `work` in another thread, as a read of a dead disk cannot be interrupted, only left behind."""
        helper = self._helper
        if helper is None or helper.process != os.getpid():
            helper = self._helper = _Helper()
        try:
            found, error = helper.run(work, self.seconds)
        except Empty:
            self._helper = None
            raise TimeoutError(f"no answer within {self.seconds:g} s") from None
        if error is not None:
            raise error
        return found

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_helper": None}


class _Helper:
    """A daemon thread that does one thing at a time; processes that are forked need one of their own."""

    def __init__(self) -> None:
        self.process = os.getpid()
        self.todo: SimpleQueue[Callable[[], Any] | None] = SimpleQueue()
        self.done: SimpleQueue[tuple[Any, Exception | None]] = SimpleQueue()
        threading.Thread(target=self._work, args=(self.todo, self.done), daemon=True).start()

    def run(self, work: Callable[[], Any], seconds: float) -> tuple[Any, Exception | None]:
        self.todo.put(work)
        try:
            return self.done.get(timeout=seconds)
        except Empty:
            self.todo.put(None)  # it ends when what it waits for does
            raise

    @staticmethod
    def _work(todo: SimpleQueue[Callable[[], Any] | None], done: SimpleQueue[tuple[Any, Exception | None]]) -> None:
        while work := todo.get():
            try:
                done.put((work(), None))
            except Exception as error:
                done.put((None, error))


def size(file: File) -> int:
    """Bytes of a file.

    Raises:
        OSError: it cannot be reached, or its server does not tell.
    """
    if isinstance(file, Path):
        return file.stat().st_size
    filesystem, path = _filesystem(file.url)
    told = filesystem.info(path).get("size")
    return len(_whole(file)) if told is None else int(told)


def read_range(file: File, offset: int, count: int) -> bytes:
    """`count` bytes from `offset` on, fewer at the end of the file."""
    if isinstance(file, Path):
        with file.open("rb") as opened:
            opened.seek(offset)
            return opened.read(count)
    if file in _without_ranges:
        return _whole(file)[offset : offset + count]
    filesystem, path = _filesystem(file.url)
    found = filesystem.cat_file(path, start=offset, end=offset + count)
    if len(found) > count:  # a server without ranges sends all it has
        _without_ranges.add(file)
        return _whole(file)[offset : offset + count]
    return bytes(found)


_without_ranges: set[File] = set()


@lru_cache(maxsize=2)
def _whole(file: Remote) -> bytes:
    filesystem, path = _filesystem(file.url)
    told = filesystem.info(path).get("size") or 0
    if told > _MAX_WHOLE:
        raise ShardError(
            f"{file} lies on a server without byte ranges and is large: copy it here, or serve it otherwise"
        )
    return bytes(filesystem.cat_file(path))


def reader(file: Remote, patience: Patience) -> Callable[[int, int], bytes]:
    """(offset, bytes) -> bytes of a file that is read from front to back in small pieces."""
    total, start, held = patience(lambda: size(file), file), 0, b""

    def ahead(offset: int, count: int) -> bytes:
        nonlocal start, held
        if not start <= offset or offset + count > start + len(held):
            wanted = min(max(count, _AHEAD), total - offset)
            start = offset
            held = patience(lambda: read_range(file, offset, wanted), file) if wanted > 0 else b""
        return held[offset - start : offset - start + count]

    return ahead


def _filesystem(url: str) -> tuple[Any, str]:
    try:
        return fsspec.core.url_to_fs(url)  # type: ignore[no-any-return]
    except ImportError as error:
        raise ShardError(
            f"{Remote(url)} cannot be read ({error}): s3:// needs `pip install s3fs`, gs:// gcsfs"
        ) from error


def is_remote(pattern: str) -> bool:
    """Whether it is a URL.

    Raises:
        ShardError: one that is no place of files: `pipe:` runs commands, `file://` and chains hide what is opened.
    """
    protocol, separator, _ = pattern.partition("://")
    if pattern.startswith("pipe:") or "::" in pattern or (separator and protocol not in PROTOCOLS):
        known = ", ".join(f"{p}://" for p in PROTOCOLS)
        raise ShardError(f"shards are local .tar files or lie behind {known}, not {pattern!r}: give one of these")
    return bool(separator)


def find(pattern: str) -> list[File]:
    """What a folder, a glob or a plain name stands for; files that an index.json lists count though they are gone."""
    if is_remote(pattern):
        return [*_find_remote(pattern)]
    if Path(pattern).is_dir():
        there = set(Path(pattern).glob("*.tar")) | {Path(pattern) / name for name in read_index(Path(pattern))}
        return [*sorted(there)]
    return [*sorted(map(Path, glob.glob(pattern, recursive=True)))]


def _find_remote(pattern: str) -> list[Remote]:
    plain = Remote(pattern)
    if plain.name.endswith(".tar") and not re.search(r"[*\[]", pattern):
        return [plain]
    filesystem, path = _filesystem(pattern)
    protocol = pattern.partition("://")[0]
    if not re.search(r"[*\[]", pattern):
        folder = pattern.rstrip("/")
        if listed := read_index(Remote(folder)):
            return sorted(Remote(f"{folder}/{name}") for name in listed)
        path = f"{path.rstrip('/')}/*.tar"
    try:
        found = Patience()(lambda: filesystem.glob(path), plain)
    except OSError as error:
        raise ShardError(f"{plain} cannot be listed ({error}): give a brace pattern of the shards") from error
    return sorted(Remote(url if "://" in url else f"{protocol}://{url.lstrip('/')}") for url in found)


def expand(pattern: str) -> list[str]:
    """`a-{000..002}.tar` -> three names."""
    return list(dict.fromkeys(braceexpand(pattern)))


def read_index(folder: File) -> dict[str, int]:
    """Shard -> samples, as the folder's index.json tells; empty without one.

    Raises:
        ShardError: it is unreadable, too large, or names a file outside the folder.
    """
    index = folder / "index.json" if isinstance(folder, Path) else Remote(f"{folder.url}/index.json")
    try:
        told = json.loads(Patience()(lambda: read_range(index, 0, _MAX_INDEX), index))
        listed = {str(entry["name"]): int(entry["samples"]) for entry in told.get("shards", [])}
    except (FileNotFoundError, PermissionError):  # a bucket that must not be listed says so of what is not there
        return {}
    except OSError as error:
        raise ShardError(f"{index} cannot be read ({error}): try again when its storage is there") from error
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ShardError(f"{index} is not readable ({error}): delete the folder and make it again") from error
    for name, samples in listed.items():
        if not re.fullmatch(r"\w[\w.-]*\.tar", name) or not 0 <= samples < 2**31:
            raise ShardError(f"{index} lists {name!r} with {samples} samples, which is no shard of its folder")
    return listed
