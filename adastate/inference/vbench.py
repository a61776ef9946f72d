"""Names and records of videos for VBench and VBench-Long.

Both read one flat folder of `<prompt>-<sample>.mp4`, with the prompt exactly as in the list and the samples counted
from 0: five a prompt, 25 for temporal flickering, whose static videos are filtered out first. VBench-Long takes whole
videos and cuts them into clips itself. As a file of another kind in that folder is mistaken for a video, what is
known of the videos stands beside it, in `<folder>.info/`.
"""

from __future__ import annotations

import hashlib
import json
import os
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from adastate.runtime import atomic

SAMPLES = 5

LONGEST = 228
"""Bytes of a prompt in a file name. File systems have 255 for all; the sample's number, the ending and what
VBench-Long appends when it cuts scenes and clips take up to 27."""

FORBIDDEN = str.maketrans("/\0", "--")

SAMPLE_STRIDE = 2**32
"""Between the noise of two samples of a prompt, so that the noise depends on neither the number of prompts nor that of
samples, and more of both may follow later. Sample 0 is the video that the plain layout makes."""


@dataclass(frozen=True)
class Item:
    """One video to make.

    Attributes:
        row: of the prompt in its list.
        prompt: as it was given, and as files and records name it.
        told: what the model is told.
        name: of the file.
        index: of the noise.
    """

    row: int
    prompt: str
    told: str
    name: str
    index: int


def stem(prompt: str) -> str:
    """The prompt as VBench looks for it; a file system's limits are met with a change that is told by a hash.

    Slashes and NULs become hyphens and what is too long is cut; then `~` and 8 digits of the prompt's hash follow, so
    that no two prompts share a name. No underscore is added: VBench-Long takes a name apart there.
    """
    name = prompt.translate(FORBIDDEN)
    if name == prompt and len(name.encode()) <= LONGEST:
        return name
    digest = hashlib.blake2b(prompt.encode(), digest_size=4).hexdigest()
    return name.encode()[: LONGEST - 9].decode(errors="ignore").rstrip() + f"~{digest}"


def items(prompts: Sequence[str], told: Sequence[str], samples: int) -> list[Item]:
    """`samples` videos a prompt, prompt by prompt; a prompt that comes again is the same video and made once."""
    first = {prompt: row for row, prompt in reversed(list(enumerate(prompts)))}
    return [
        Item(row, prompt, told[row], f"{stem(prompt)}-{sample}.mp4", row + SAMPLE_STRIDE * sample)
        for row, prompt in enumerate(prompts)
        if first[prompt] == row
        for sample in range(samples)
    ]


def record(folder: Path, videos: Sequence[Item], settings: dict[str, Any]) -> None:
    """Writes prompts.json, extended.json (both by file name) and settings.json, beside those of earlier calls.

    prompts.json is what VBench reads with --prompt_file. ValueError if videos of this folder were made otherwise.
    """
    settings = json.loads(json.dumps(settings))
    before = _read(folder / "settings.json")
    for key in (k for k in settings if k in before and before[k] != settings[k]):
        raise ValueError(
            f"the videos in {folder.with_suffix('')} were made with {key} {before[key]}, now it is {settings[key]}: "
            "use the same, or choose another folder with --out"
        )
    told = _read(folder / "extended.json")
    for item in videos:
        if told.get(item.name, item.told) != item.told:
            raise ValueError(
                f"{item.name} was made of another extended prompt: use the same, or choose another folder with --out"
            )
    write_record(folder / "prompts.json", _read(folder / "prompts.json") | {item.name: item.prompt for item in videos})
    write_record(folder / "extended.json", told | {item.name: item.told for item in videos})
    write_record(folder / "settings.json", before | settings)


def content_fingerprint(path: Path, blocks: int = 64) -> str:
    """Of what a file, or every file of a folder, holds: size and evenly spaced blocks of 64 KiB, for weights are too
    large to be read whole by every rank. The name itself where nothing is there."""
    if not path.exists():
        return str(path)
    digest = hashlib.blake2b(digest_size=8)
    for file in sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]:
        size, block = file.stat().st_size, 2**16
        digest.update(f"{file.name} {size} ".encode() if path.is_dir() else f"{size} ".encode())
        with file.open("rb") as stream:
            for i in range(blocks):
                stream.seek(i * max(block, size // blocks))
                digest.update(stream.read(block))
    return digest.hexdigest()


def write_record(path: Path, content: Any) -> None:
    """Whole or not at all, however many ranks write it."""
    atomic.write_json(path, content, f"{socket.gethostname()}.{os.getpid()}")


def _read(path: Path) -> dict[str, Any]:
    return dict(json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else {}
