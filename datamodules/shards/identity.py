"""Identity of files and sets: the same file under any spelling, the same content, the same set at a later time."""

from __future__ import annotations

import hashlib
import os
import posixpath
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

from adastate.runtime import secrets
from datamodules.shards.patience import Patience
from datamodules.shards.remote import File, Listed, Stamp, stamp

_READ_WHOLE = 1 << 28
"""Maximum bytes of a shard that is newer than its index and is read completely: a larger one would delay the start."""


_SPOTS, _SPOT = 64, 4096
"""Positions of a shard that are always checked, whatever its size and date, and bytes read at each."""


def spots(file: Path) -> str:
    """A digest of evenly spaced parts of a file; it differs for another file of the same length.

    Changes of single bytes between these parts go unnoticed.
    """
    length, taken = file.stat().st_size, hashlib.sha256()
    with file.open("rb", buffering=0) as opened:
        for place in range(_SPOTS):
            opened.seek(max(0, length - _SPOT) * place // (_SPOTS - 1))
            taken.update(opened.read(_SPOT))
    return taken.hexdigest()[:24]


def same_place(file: File) -> Any:
    """Equal for two spellings of one file: links, `./`, `//`, and in URLs escapes, case, default ports, secrets."""
    if isinstance(file, Path):
        try:
            found = file.stat()
        except OSError:
            return os.path.realpath(file)
        return (found.st_dev, found.st_ino) if found.st_ino else os.path.realpath(file)
    parts = urlsplit(file.url)
    if parts.scheme.lower() not in ("http", "https"):  # object stores use names literally
        return file.url.replace("gcs://", "gs://", 1)
    host = (parts.hostname or "", parts.port if parts.port not in (80, 443) else None)
    asked = sorted((k, v) for k, v in parse_qsl(parts.query, keep_blank_values=True) if not secrets.is_secret(k))
    return host, posixpath.normpath(re.sub("/+", "/", unquote(parts.path))), tuple(asked)


def unlike_index(file: File, listed: Listed | None, known: Stamp) -> str:
    """Why a shard is not the one that its index.json lists; empty if it is, or if that cannot be determined.

    Parts of it are checked in any case. A shard that is newer than its index is read completely if it is small: it may
    be a copy without dates, or have other content.
    """
    if listed is None or not known or not isinstance(file, Path):
        return ""
    has, date, _ = known
    if listed.bytes is not None and listed.bytes != has:
        return f"has {has} bytes, but index.json lists {listed.bytes}: recreate the set"
    other = "has other content than index.json lists: recreate the set"
    if listed.spots and listed.spots != spots(file):
        return other
    if listed.sha256 and has <= _READ_WHOLE and date > (file.parent / "index.json").stat().st_mtime_ns:
        with file.open("rb") as opened:
            if hashlib.file_digest(opened, "sha256").hexdigest() != listed.sha256:
                return other
    return ""


def content(shards: Sequence[tuple[Listed | None, Stamp]]) -> dict[str, str]:
    """What distinguishes a set from another with the same names and counts: `content` if index.json has all digests,
    else `files`, their sizes, dates and inodes."""
    listed = [entry.sha256 for entry, _ in shards if entry is not None and entry.sha256]
    kind, told = ("content", listed) if len(listed) == len(shards) else ("files", [str(found) for _, found in shards])
    return {kind: hashlib.sha256("\n".join(told).encode()).hexdigest()[:24]}


def patiently_stamped(file: File, patience: Patience) -> Stamp:
    """Stamp of a file that has not been checked yet; empty if it cannot be read."""
    try:
        return patience(lambda: stamp(file), file)
    except OSError:
        return ()
