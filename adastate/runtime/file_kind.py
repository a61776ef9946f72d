"""Which kind of file this is, by its first bytes; and in a sentence what it is where it holds no weights."""

from __future__ import annotations

import json
import re
import struct
import zipfile
from pathlib import Path
from typing import Literal

HEAD = 1024
"""Bytes that are looked at."""

AGAIN = "download it again, with `hf download REPOSITORY FILE`"

VIDEO = "a video, not weights; give their .safetensors or .pt file"

MAGIC = {
    b"GGUF": "a gguf file, whose weights are quantised; give the .safetensors or .pt file that it was made from",
    b"\x89HDF": "an HDF5 file; give the network's .safetensors or .pt file",
    b"\x93NUMPY": "a NumPy array; give the network's .safetensors or .pt file",
    b"\x1f\x8b": "a gzip archive; unpack it and give the file in it",
    b"7z\xbc\xaf": "a 7z archive; unpack it and give the file in it",
    b"Rar!": "a rar archive; unpack it and give the file in it",
    b"\x28\xb5\x2f\xfd": "a zstd archive; unpack it and give the file in it",
    **dict.fromkeys(
        (b"\x89PNG", b"GIF8", b"\xff\xd8\xff\xe0", b"\xff\xd8\xff\xe1", b"RIFF"),
        "an image or a recording, not weights; give their .safetensors or .pt file",
    ),
    b"\x1a\x45\xdf\xa3": VIDEO,
    b"%PDF": "a PDF, not weights; give their .safetensors or .pt file",
}


class NoWeightsError(ValueError):
    """A file that holds no weights, or not all of them."""


def kind(path: Path) -> Literal["safetensors", "torch"]:
    """By content, and by suffix where that does not tell.

    Raises:
        NoWeightsError: it is neither, or cut short: what it is, and what to do.
    """
    with path.open("rb") as file:
        head = file.read(HEAD)
    if not head:
        raise NoWeightsError(f"{path} is empty: a copy or download has ended before it began; {AGAIN}")
    if head.startswith(b"version https://git-lfs"):
        size = re.search(rb"size (\d+)", head)
        whole = f" of a file of {int(size[1]) / 1e9:.2f} GB" if size else ""
        raise NoWeightsError(
            f"{path} is a Git LFS pointer and not the weights{whole}: run `git lfs pull` in its repository, or {AGAIN}"
        )
    for magic, what in MAGIC.items():
        if head.startswith(magic):
            raise NoWeightsError(f"{path} is {what}")
    if head[4:8] == b"ftyp":
        raise NoWeightsError(f"{path} is {VIDEO}")
    if head[257:262] == b"ustar":
        raise NoWeightsError(f"{path} is a tar archive; unpack it and give the file in it")
    if head.startswith(b"PK\x03\x04"):
        _require_torch(path)
        return "torch"
    if head[8:9] == b"{":
        _require_whole(path, head)
        return "safetensors"
    if text := _text(head):
        page = re.match(r"<(?:!doctype html|html|\?xml)", text, re.IGNORECASE)
        what = "a web page" if page else f"text ({' '.join(text.split())[:60]!r})"
        raise NoWeightsError(
            f"{path} is {what} and no weights: the download may have got an error or a request to sign in; {AGAIN} "
            "after `hf auth login`"
        )
    return "safetensors" if path.suffix == ".safetensors" else "torch"


def stand_in(path: Path) -> str:
    """What stands in the place of a download of another kind, in words; empty where that cannot be told."""
    try:
        with path.open("rb") as file:
            head = file.read(HEAD)
    except OSError:
        return ""
    if not head:
        return "it is empty: copy it again"
    if head.startswith(b"version https://git-lfs"):
        return "it is a Git LFS pointer: run `git lfs pull` in its repository"
    if re.match(rb"\s*<(?:!doctype html|html)", head, re.IGNORECASE):
        return "it is a web page: download it again"
    return ""


def _text(head: bytes) -> str:
    """The beginning of a text; empty for anything else."""
    try:
        text = head.decode("utf-8", errors="ignore" if len(head) == HEAD else "strict").strip()
    except UnicodeDecodeError:
        return ""
    return text if all(c.isprintable() or c.isspace() for c in text) else ""


def _require_torch(path: Path) -> None:
    """Refuses zip archives that torch.save did not write, or not to their end, where the list of contents stands."""
    if not zipfile.is_zipfile(path):
        raise NoWeightsError(f"{path} is not a whole PyTorch file (it breaks off after {_size(path)}): copy it again")
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
        unpacked = sum(entry.file_size for entry in archive.infolist())
    if unpacked > path.stat().st_size:  # torch.save packs nothing
        raise NoWeightsError(
            f"{path} is packed, {_size(path)} for {unpacked:,}, which no PyTorch file is: copy it again"
        )
    if not any(name.endswith("data.pkl") for name in names):
        held = ", ".join(names[:3]) or "nothing"
        raise NoWeightsError(
            f"{path} is a zip archive and no PyTorch file (it holds {held}): unpack it, and give a file"
        )


def _require_whole(path: Path, head: bytes) -> None:
    """Refuses a safetensors file that ends before its header says."""
    size = path.stat().st_size
    (length,) = struct.unpack("<Q", head[:8])
    end = 8 + length
    if end <= size:
        with path.open("rb") as file:
            try:
                header = json.loads(file.read(end)[8:])
                end += max((entry["data_offsets"][1] for k, entry in header.items() if k != "__metadata__"), default=0)
            except (ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError):
                return  # the library says what is the matter
    if size < end < 1 << 45:
        raise NoWeightsError(
            f"{path} is not a whole safetensors file (it breaks off after {_size(path)} of {end:,}): copy or train it "
            "again"
        )


def _size(path: Path) -> str:
    return f"{path.stat().st_size:,} bytes"
