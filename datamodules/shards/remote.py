"""Local files and files behind a URL, read by byte ranges, with a time limit and retries.

Nothing is copied to disk: a shard is indexed by its headers, and samples are fetched from where they are stored.
"""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import fsspec
from braceexpand import braceexpand

from adastate.runtime import secrets
from adastate.runtime.plain_json import load_json
from adastate.runtime.secrets import HIDDEN
from datamodules.shards import web
from datamodules.shards.patience import Patience
from datamodules.shards.safe_decode import ChangedError
from datamodules.shards.shard_error import ShardError

T = TypeVar("T")

PROTOCOLS = ("http", "https", "s3", "gs", "gcs", "memory")
_AHEAD = 1 << 18
"""Bytes fetched at once while headers are read; members are often so small that round trips would dominate."""

_MAX_INDEX = 256 << 20
_MAX_WHOLE = 1 << 30

Stamp = tuple[Any, ...]
"""Identifies one content of a file: size, date and inode, or the server's version of it."""


@dataclass(frozen=True, order=True, repr=False)
class Remote:
    """A file behind a URL."""

    url: str

    @property
    def name(self) -> str:
        return re.split(r"[?#]", self.url)[0].rstrip("/").rpartition("/")[2]

    @property
    def parent(self) -> str:
        return re.split(r"[?#]", self.url)[0].rpartition("/")[0]

    def __repr__(self) -> str:
        return f"Remote({str(self)!r})"

    def __str__(self) -> str:
        """Without query and password, because logs are read by others."""
        return re.sub(r"//[^/@]*@", "//", re.split(r"[?#]", self.url)[0])


File = Path | Remote


def stamp(file: File) -> Stamp:
    """The file's stamp. Raises OSError if it cannot be reached."""
    if isinstance(file, Path):
        return stamp_of(file.stat())
    filesystem, path = _filesystem(file.url)
    told = filesystem.info(path)
    dated = next((str(told[k]) for k in ("ETag", "etag", "Last-Modified", "LastModified", "updated", "created")
                  if told.get(k)), "")  # fmt: skip
    return told.get("size"), dated


def stamp_of(found: os.stat_result) -> Stamp:
    return found.st_size, found.st_mtime_ns, found.st_ino


def size(file: File) -> int:
    """Size of a file in bytes.

    Raises:
        OSError: it cannot be reached, or its server does not report a size.
    """
    if isinstance(file, Path):
        return file.stat().st_size
    filesystem, path = _filesystem(file.url)
    told = filesystem.info(path).get("size")
    return len(_whole(file)) if told is None else int(told)


def read_range(file: File, offset: int, count: int, known: Stamp = ()) -> bytes:
    """`count` bytes from `offset` on, fewer at the end of the file.

    Raises:
        ChangedError: the file has changed since its stamp was `known`.
    """
    if isinstance(file, Path):
        with file.open("rb") as opened:
            if known and stamp_of(os.fstat(opened.fileno())) != known:
                raise ChangedError("was replaced or written to")
            opened.seek(offset)
            return opened.read(count)
    if file in _without_ranges:
        return _whole(file)[offset : offset + count]
    filesystem, path = _filesystem(file.url)
    unless = {"unless": known[1]} if known and isinstance(filesystem, web.WebFiles) else {}
    found = filesystem.cat_file(path, start=offset, end=offset + count, **unless)
    if len(found) > count:  # a server without range support sends everything
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
            f"{file} is large and on a server without byte ranges: copy it to this machine, or use another server"
        )
    return bytes(filesystem.cat_file(path))


def reader(file: Remote, patience: Patience) -> Callable[[int, int], bytes]:
    """(offset, bytes) -> bytes of a file that is read sequentially in small pieces."""
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
    if HIDDEN in url:
        raise ShardError(
            f"the secret in {Remote(url)} is not saved in files: set data.shards again, with "
            "${oc.env:NAME} in its place"
        )
    if url.startswith(("http://", "https://")):
        return web.WebFiles(), url
    try:
        return fsspec.core.url_to_fs(url)  # type: ignore[no-any-return]
    except ImportError as error:
        raise ShardError(
            f"{Remote(url)} cannot be read ({error}): s3:// needs `pip install s3fs`, gs:// gcsfs"
        ) from error


def is_remote(pattern: str) -> bool:
    """Whether it is a URL.

    Raises:
        ShardError: the URL is not a location of files: `pipe:` runs commands, `file://` and chains hide what is opened.
    """
    protocol, separator, _ = pattern.partition("://")
    protocol = protocol.lower()
    if pattern.startswith("pipe:") or "::" in pattern or (separator and protocol not in PROTOCOLS):
        known = ", ".join(f"{p}://" for p in PROTOCOLS)
        told = f"{pattern.partition(':')[0]}:..." if pattern.startswith("pipe:") else secrets.redacted(pattern)
        raise ShardError(f"shards must be local .tar files or URLs with {known}, not {told!r}")
    return bool(separator)


def find_files(pattern: str) -> list[File]:
    """Files of a folder, a glob or a plain name; files that an index.json lists are included even if missing."""
    if is_remote(pattern):
        return [*_find_remote(pattern)]
    if Path(pattern).is_dir():
        there = set(Path(pattern).glob("*.tar")) | {Path(pattern) / name for name in read_index(Path(pattern))}
        return [*sorted(there)]
    return [*sorted(map(Path, glob.glob(pattern, recursive=True)))]


def _find_remote(pattern: str) -> list[Remote]:
    protocol, _, place = pattern.partition("://")
    pattern = f"{protocol.lower()}://{place}"
    plain = Remote(pattern)
    if plain.name.endswith(".tar") and not re.search(r"[*\[]", pattern):
        return [plain]
    protocol = protocol.lower()
    if "**" in place.partition("/")[2] and protocol in ("http", "https"):  # which may have endless folders
        raise ShardError(f"{plain}: a web server is not searched with **: name the folder, or give a brace pattern")
    filesystem, path = _filesystem(pattern)
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


class Listed(NamedTuple):
    """An index.json's entry for a shard; the last three fields may be missing."""

    samples: int
    bytes: int | None = None
    sha256: str | None = None
    spots: str | None = None


def read_index(folder: File) -> dict[str, Listed]:
    """The shards that the folder's index.json lists; empty if there is none.

    Raises:
        ShardError: it is unreadable, too large, or names a file outside the folder.
    """
    index = folder / "index.json" if isinstance(folder, Path) else Remote(f"{folder.url}/index.json")
    try:
        told = load_json(Patience()(lambda: read_range(index, 0, _MAX_INDEX), index))
        listed = {
            str(entry["name"]): Listed(int(entry["samples"]), *(entry.get(k) for k in ("bytes", "sha256", "spots")))
            for entry in told.get("shards", [])
        }
    except (FileNotFoundError, PermissionError):  # a bucket that must not be listed reports missing files like this
        return {}
    except OSError as error:
        raise ShardError(f"{index} cannot be read ({error}): try again when its storage is available") from error
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ShardError(f"{index} is not readable ({error}): delete and recreate the folder") from error
    for name, (samples, *_) in listed.items():
        if not re.fullmatch(r"\w[\w.-]*\.tar", name) or not 0 <= samples < 2**31:
            raise ShardError(f"{index} lists {name!r} with {samples} samples, which is not a shard of its folder")
    return listed
