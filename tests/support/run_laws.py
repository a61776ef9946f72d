"""What has to hold of a run's files whatever failed, and what others and time do to them."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from pathlib import Path

MINE = "00000009-mine"
"""A user's copy of a checkpoint."""

ROTTEN = {
    "newest": (b'"files"', b'"iteration"', b'"sha256"', b'"manifest_sha256"'),
    "older": (b'"files"', b'"monitor"'),
}
"""Where one bit of a manifest is flipped, of the newest checkpoint and of the one before."""


def checkpoints(stage: Path) -> list[Path]:
    """Those of the run, oldest first; the instrument's own reading, whatever the run's is."""
    return sorted(p for p in (stage / "checkpoints").glob("*") if re.fullmatch(r"\d{8}", p.name))


def lost(stage: Path) -> str:
    """What of a stage was acknowledged and is not there, or not whole; the newest two saves are kept.

    A save is acknowledged by its line in the log, which is written when it is there and older ones are deleted.
    """
    from adastate.runtime import atomic_folder

    log = stage / "run.log.jsonl"
    saved = []
    for line in log.read_text().splitlines() if log.is_file() else []:
        try:
            event = json.loads(line)
        except ValueError:
            continue  # the line in which it was killed
        saved += [event["iteration"]] if event["event"] == "saved" else []
    there = checkpoints(stage)
    for folder in there:
        try:
            atomic_folder.verify(folder)
        except Exception as error:
            return f"{folder.name} is not whole: {error}"
    if len(there) < min(2, len(saved)) or (saved and int(there[-1].name[-8:]) < saved[-1]):
        return f"there are {[p.name for p in there]}, acknowledged were {saved}"
    return ""


def left(run: Path) -> str:
    """What a run leaves in TMPDIR that could fill it."""
    large = [p for p in run.with_name(f"{run.name}.tmp").rglob("*") if p.is_file() and p.stat().st_size > 20_000]
    return f"leaves {large[0].name} of {large[0].stat().st_size} bytes in TMPDIR" if large else ""


def digest(run: Path) -> str:
    """Of the student or teacher that a run has written."""
    path = next(run.glob("*.safetensors"), run / "none")
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "none"


def copy_of_the_oldest(stage: Path) -> bool:
    """As a user keeps one; whether there was one to copy."""
    for folder in checkpoints(stage)[:1]:
        shutil.copytree(folder, folder.with_name(MINE))
        return True
    return False


def unkept(stage: Path, last: str, copied: bool) -> str:
    """What a run that has come to its end has done to a user's copy, or not done about its own last checkpoint."""
    there = checkpoints(stage)
    if copied and not (stage / "checkpoints" / MINE).is_dir():
        return "a user's copy is gone"
    return "" if there and there[-1].name == last else f"its last checkpoint is not {last}: {[p.name for p in there]}"


def rot(stage: Path, which: str, where: int) -> None:
    """Flips a bit of a manifest."""
    manifest = checkpoints(stage)[-1 if which == "newest" else -2] / "manifest.json"
    content = bytearray(manifest.read_bytes())
    content[content.index(ROTTEN[which][where]) + 2] ^= 1
    manifest.write_bytes(content)


def unsynced(calls: Path) -> str:
    """A rename of weights or of a checkpoint whose bytes, or whose new name, a loss of power could take back."""
    lines = calls.read_text().splitlines()
    for at, call in enumerate(lines):
        kind, _, name = call.partition(" ")
        if kind == "rename" and re.search(r"safetensors|unfinished", name):
            since = 1 + max((i for i in range(at) if lines[i] == call), default=-1)
            if f"fsync {name}" not in lines[since:at]:
                return f"{name} is renamed before its bytes are on the disk"
            if f"fsync {name.rpartition('/')[0]}" not in lines[at + 1 : at + 9]:
                return f"{name} is renamed, and its folder is not on the disk"
    return ""
