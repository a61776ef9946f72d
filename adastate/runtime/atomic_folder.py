"""Folders that are whole or absent: written under another name, sealed with checksums, and renamed.

A checkpoint is a folder `00000042/` with the files of iteration 42 and `manifest.json`, which lists every file's size
and sha256, and holds a sha256 of itself. Whatever is killed, or whenever: under its final name a folder is complete,
and damage that comes later shows before anything of it is used. Folders of other names are somebody else's.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Container, Mapping, Sequence
from pathlib import Path
from typing import Any

from adastate.runtime.atomic import sync

MANIFEST = "manifest.json"
UNFINISHED, DOOMED, REPLACED = ".unfinished-", ".doomed-", ".replaced-"
"""Prefixes of folders that are being written, of those being deleted, and of one whose place another is taking."""

NAME = re.compile(rf"({re.escape(REPLACED)})?(?P<number>[0-9]{{8}})")
DIGEST = "manifest_sha256"
"""The manifest's entry for itself: the sha256 of all others."""

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
    write_manifest(scratch, {**facts, "files": files})
    for folder in [p for p in scratch.rglob("*") if p.is_dir()] + [scratch]:
        sync(folder)
    final = scratch.with_name(scratch.name.removeprefix(UNFINISHED))
    replaced = final.with_name(f"{REPLACED}{final.name}")
    if final.exists():
        # Not a moment without a whole folder: `folders` knows the one that is there by this name, too.
        shutil.rmtree(replaced, ignore_errors=True)
        final.rename(replaced)
    scratch.rename(final)
    sync(final.parent)
    if replaced.exists():
        delete(replaced)
    return final


def write_manifest(folder: Path, manifest: Mapping[str, Any]) -> None:
    """Writes what a folder says of itself, with the digest of that, and has it on the disk."""
    told = {**manifest, DIGEST: _of_facts(manifest)}
    (folder / MANIFEST).write_text(json.dumps(told, indent=1), encoding="utf-8")
    sync(folder / MANIFEST)


def checked_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a folder.

    Raises:
        Damaged: it has none, or one that is not as it was written, or one of another folder.
    """
    try:
        manifest = json.loads((folder / MANIFEST).read_bytes())
        if DIGEST not in manifest and {"iteration", "files"} <= manifest.keys():
            raise Damaged(
                f"{folder} was written by an earlier version, whose {MANIFEST} has no {DIGEST}: continue with that "
                "version, or start a new run from the weights of this one"
            )
        told = manifest.pop(DIGEST)
        files = manifest["files"]
        number = NAME.fullmatch(folder.name)
        whole = told == _of_facts(manifest)
        complete = bool(files) and all(isinstance(f.get("bytes"), int) and f.get("sha256") for f in files.values())
        moved = number is not None and manifest["iteration"] != int(number["number"])
    except Damaged:
        raise
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise Damaged(f"{folder} has no readable {MANIFEST} ({error!r})") from error
    if not whole:
        raise Damaged(f"{folder} is damaged: {MANIFEST} is not as it was written")
    if not complete:
        raise Damaged(f"{folder / MANIFEST} lists no files")
    if moved:
        raise Damaged(f"{folder} holds iteration {manifest['iteration']}: another checkpoint was copied to this name")
    return dict(manifest)


def _of_facts(manifest: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()


def fingerprint(folder: Path) -> str:
    """The first digits of the sha256 of the manifest, which holds those of all files."""
    return _digest(folder / MANIFEST)[:12]


def verify(folder: Path, part: int = 0, parts: int = 1) -> dict[str, Any]:
    """The manifest, after every file, or those of an even part of them, has been held against it.

    Raises:
        Damaged: a file is missing, short, or has other bytes; the sentence names it.
    """
    manifest = checked_manifest(folder)
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
    """Finished folders, oldest first: those whose names are eight digits, and nobody's copies or notes."""
    found = dict[str, Path]()
    for path in sorted(root.glob("*"), reverse=True):  # one that was being replaced comes last, and counts alone only
        name = NAME.fullmatch(path.name)
        if name and path.is_dir() and (path / MANIFEST).is_file():
            found.setdefault(name["number"], path)
    return [found[number] for number in sorted(found)]


def is_copy(folder: Path) -> bool:
    """Whether somebody has copied another checkpoint to this name: it is theirs, and none of the run's."""
    name = NAME.fullmatch(folder.name)
    try:
        told = json.loads((folder / MANIFEST).read_bytes())["iteration"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return False
    return name is not None and isinstance(told, int) and told != int(name["number"])


def delete(folder: Path) -> None:
    """Renamed first: a folder that is half deleted never stands under its final name."""
    doomed = folder.with_name(f"{DOOMED}{folder.name}")
    shutil.rmtree(doomed, ignore_errors=True)
    folder.rename(doomed)
    shutil.rmtree(doomed, ignore_errors=True)


def sweep(root: Path) -> None:
    """Removes what a killed process left unfinished, and gives a folder whose place was not taken its name back."""
    for left in root.glob(f"{REPLACED}*"):
        final = left.with_name(left.name.removeprefix(REPLACED))
        if not final.exists():
            left.rename(final)
    for prefix in (UNFINISHED, DOOMED, REPLACED):
        for left in root.glob(f"{prefix}*"):
            shutil.rmtree(left, ignore_errors=True)


def set_aside(root: Path, which: Sequence[Path]) -> Path | None:
    """Moves folders into a new one, `aside-1`, `aside-2`, ..., where nothing looks for them; returns that."""
    if not which:
        return None
    taken = [int(p.name[6:]) for p in root.glob("aside-*") if p.name[6:].isdigit()]
    aside = root / f"aside-{max(taken, default=0) + 1}"
    aside.mkdir()
    for folder in which:
        folder.rename(aside / folder.name.removeprefix(REPLACED))
    for changed in (aside, root):
        sync(changed)
    return aside


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
