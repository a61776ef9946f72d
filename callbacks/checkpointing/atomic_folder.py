"""Folders that are whole or absent: written under another name, sealed with checksums, and renamed.

A checkpoint is a folder `<name>/` with the files of one save and `manifest.json`, which lists every file's size and
sha256. Whatever is killed, or whenever: under its final name a folder is complete, and damage that comes later shows
before anything of it is used.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Container, Iterator, Mapping
from pathlib import Path
from typing import Any

from adastate.runtime.atomic import sync

MANIFEST = "manifest.json"
UNFINISHED, DOOMED = ".unfinished-", ".doomed-"
"""Prefixes of folders that are being written, and of those being deleted."""


File = dict[str, int | str]
"""`bytes` and `sha256` of one."""


class Damaged(ValueError):
    """A folder that is not what its manifest says, in one sentence."""


def begin(root: Path, name: str) -> Path:
    """An empty folder to write into; `seal` makes it `root/name`."""
    scratch = root / f"{UNFINISHED}{name}"
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)
    return scratch


def digests(scratch: Path, part: int = 0, parts: int = 1, known: Container[str] = ()) -> dict[str, File]:
    """What the manifest says of a folder's files, or of an even part of them, which are on the disk then.

    Args:
        known: files to leave out.
    """
    names = {str(p.relative_to(scratch)): p for p in scratch.rglob("*") if p.is_file()}
    largest = sorted(names, key=lambda name: (-names[name].stat().st_size, name))
    found: dict[str, File] = {}
    for name in largest[part::parts]:
        if name not in known:
            found[name] = {"bytes": names[name].stat().st_size, "sha256": _digest(names[name])}
            sync(names[name])
    return found


def seal(scratch: Path, facts: Mapping[str, Any], known: Mapping[str, File] | None = None) -> Path:
    """Makes a written folder final and returns it.

    Every file is on the disk before the manifest is, the manifest before the rename, the rename before this returns.

    Args:
        facts: for the manifest.
        known: what `digests` said of files already; the others are looked at here.
    """
    known = known or {}
    files = dict(sorted({**known, **digests(scratch, known=known)}.items()))
    manifest = scratch / MANIFEST
    manifest.write_text(json.dumps({**facts, "files": files}, indent=1), encoding="utf-8")
    sync(manifest)
    for folder in [p for p in scratch.rglob("*") if p.is_dir()] + [scratch]:
        sync(folder)
    final = scratch.with_name(scratch.name.removeprefix(UNFINISHED))
    if final.exists():
        # Not a moment without a whole folder: the one that is there stays until this one stands beside it.
        aside = scratch.with_name(f"{final.name}-again")
        scratch.rename(aside)
        delete(final)
        scratch = aside
    scratch.rename(final)
    sync(final.parent)
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


def fingerprint(folder: Path) -> str:
    """The first digits of the sha256 of the manifest, which holds those of all files."""
    return _digest(folder / MANIFEST)[:12]


def verify(folder: Path, part: int = 0, parts: int = 1) -> dict[str, Any]:
    """The manifest, after every file, or those of an even part of them, has been held against it.

    Raises:
        Damaged: a file is missing, short, or has other bytes; the sentence names it.
    """
    manifest = facts(folder)
    files = manifest["files"]
    for name in sorted(files, key=lambda name: (-files[name]["bytes"], name))[part::parts]:
        expected = files[name]
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
