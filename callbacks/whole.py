"""Folders that are whole or absent: written under another name, sealed with checksums, and renamed.

A checkpoint is a folder `<name>/` with the files of one save and `manifest.json`, which lists every file's size and
sha256. Whatever is killed, or whenever: under its final name a folder is complete, and damage that comes later shows
before anything of it is used.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

MANIFEST = "manifest.json"
UNFINISHED, DOOMED = ".unfinished-", ".doomed-"
"""Prefixes of folders that are being written, and of those being deleted."""


class Damaged(ValueError):
    """A folder that is not what its manifest says, in one sentence."""


def begin(root: Path, name: str) -> Path:
    """An empty folder to write into; `seal` makes it `root/name`."""
    scratch = root / f"{UNFINISHED}{name}"
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)
    return scratch


def seal(scratch: Path, facts: Mapping[str, Any]) -> Path:
    """Makes a written folder final and returns it.

    Every file is on the disk before the manifest is, the manifest before the rename, the rename before this returns.
    """
    files = {}
    for path in sorted(p for p in scratch.rglob("*") if p.is_file()):
        files[str(path.relative_to(scratch))] = {"bytes": path.stat().st_size, "sha256": _digest(path)}
        _sync(path)
    manifest = scratch / MANIFEST
    manifest.write_text(json.dumps({**facts, "files": files}, indent=1), encoding="utf-8")
    _sync(manifest)
    for folder in [p for p in scratch.rglob("*") if p.is_dir()] + [scratch]:
        _sync(folder)
    final = scratch.with_name(scratch.name.removeprefix(UNFINISHED))
    if final.exists():
        # Not a moment without a whole folder: the one that is there stays until this one stands beside it.
        aside = scratch.with_name(f"{final.name}-again")
        scratch.rename(aside)
        delete(final)
        scratch = aside
    scratch.rename(final)
    _sync(final.parent)
    return final


def facts(folder: Path) -> dict[str, Any]:
    """The manifest of a folder.

    Raises:
        Damaged: it has none, or one that cannot be read.
    """
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        if isinstance(manifest["files"], dict):
            return dict(manifest)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise Damaged(f"{folder} has no readable {MANIFEST} ({error})") from error
    raise Damaged(f"{folder / MANIFEST} lists no files")


def verify(folder: Path) -> dict[str, Any]:
    """The manifest, after every file has been held against it.

    Raises:
        Damaged: a file is missing, short, or has other bytes; the sentence names it.
    """
    manifest = facts(folder)
    for name, expected in manifest["files"].items():
        path = folder / name
        if not path.is_file():
            raise Damaged(f"{folder} is damaged: {name} is missing")
        size = path.stat().st_size
        if size != expected["bytes"]:
            raise Damaged(f"{folder} is damaged: {name} has {size} bytes, not {expected['bytes']}")
        if _digest(path) != expected["sha256"]:
            raise Damaged(f"{folder} is damaged: {name} has other bytes than were written")
    return manifest


def folders(root: Path) -> list[Path]:
    """Finished folders, oldest first by the number in their name."""
    found = [p for p in root.glob("[!.]*") if p.is_dir() and (p / MANIFEST).is_file()]
    return sorted(found, key=lambda p: (p.name.partition("-")[0].zfill(12), p.name))


def newest_whole(root: Path) -> tuple[Path | None, list[str]]:
    """(the newest folder that is what its manifest says, what is wrong with newer ones)."""
    wrong = []
    for folder in reversed(folders(root)):
        try:
            verify(folder)
        except Damaged as error:
            wrong.append(str(error))
        else:
            return folder, wrong
    return None, wrong


def delete(folder: Path) -> None:
    """Renamed first: a folder that is half deleted never stands under its final name."""
    doomed = folder.with_name(f"{DOOMED}{folder.name}")
    shutil.rmtree(doomed, ignore_errors=True)
    folder.rename(doomed)
    shutil.rmtree(doomed, ignore_errors=True)


def sweep(root: Path) -> None:
    """Removes what a killed process left unfinished."""
    for left in _leftovers(root):
        shutil.rmtree(left, ignore_errors=True)


def _leftovers(root: Path) -> Iterator[Path]:
    for prefix in (UNFINISHED, DOOMED):
        yield from root.glob(f"{prefix}*")


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
