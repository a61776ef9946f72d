"""Files that are whole or absent: written under another name beside their own, and renamed when they are complete.

Whoever reads a file meanwhile sees the old one or the new one, and a process that is killed leaves the old one. A
scratch file that a killed process has left is written over by the next one of the same name.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


def scratch_of(path: Path, by: str = "") -> Path:
    """Where `path` is written until it is complete: hidden, and with an ending of its own, so that no pattern for files
    of its kind finds it.

    Args:
        by: who writes, where several processes may write the same file at once.
    """
    return path.with_name(f".{path.name}.{by}.part" if by else f".{path.name}.part")


def settle(scratch: Path, path: Path, durable: bool = False) -> Path:
    """Gives what was written at `scratch`, a file or a folder, the name `path`, and returns that.

    Args:
        durable: have the bytes, of a folder those of all its files, on the disk before the rename, and the rename
            before this returns, so that a machine that loses its power keeps the one or the other. It costs a wait.
    """
    if durable:
        for written in (*scratch.rglob("*"), scratch):
            sync(written)
    if scratch.is_dir() and path.is_dir():  # a folder takes the place of an empty one only
        old = path.with_name(f".{path.name}.old")
        _remove(old)
        path.rename(old)
        scratch.rename(path)
        _remove(old)
    else:
        scratch.replace(path)
    if durable:
        sync(path.parent)
    return path


@contextmanager
def replacing(path: Path, by: str = "", durable: bool = False) -> Iterator[Path]:
    """A scratch path that becomes `path`, a file or a folder, if all goes well, and else is removed.

    The folder that holds `path` is made where there is none. Arguments as of `scratch_of` and `settle`.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = scratch_of(path, by)
    _remove(scratch)
    try:
        yield scratch
        settle(scratch, path, durable)
    finally:
        _remove(scratch)


def write_bytes(path: Path, content: bytes, by: str = "", durable: bool = False) -> None:
    """As Path.write_bytes, but whole or not at all."""
    with replacing(path, by, durable) as scratch:
        scratch.write_bytes(content)


def write_text(path: Path, content: str, by: str = "", durable: bool = False) -> None:
    """As Path.write_text in UTF-8, but whole or not at all."""
    write_bytes(path, content.encode(), by, durable)


def write_json(path: Path, content: Any, by: str = "", durable: bool = False) -> None:
    """`content` as JSON to be read by people as well, whole or not at all."""
    write_text(path, json.dumps(content, indent=1, ensure_ascii=False), by, durable)


def sync(path: Path) -> None:
    """Has the bytes of a file, or the names in a folder, on the disk before it returns."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
