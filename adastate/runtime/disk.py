"""What a disk is to blame for: it is full, broken, gone or too slow, and nothing in the program is wrong."""

from __future__ import annotations

import errno
import shutil
from pathlib import Path

FULL = frozenset((errno.ENOSPC, errno.EDQUOT, errno.EFBIG))
GONE = frozenset(
    number
    for name in (
        "EIO", "EROFS", "ESTALE", "ETIMEDOUT", "ENOENT", "ENOTCONN", "ENODEV", "ENXIO", "EREMOTEIO", "EHOSTDOWN",
        "ENOLINK", "ESHUTDOWN", "EKEYEXPIRED",
    )
    if (number := getattr(errno, name, None)) is not None
)  # fmt: skip
"""What file systems over a network say of a server that has gone, too."""

FAULTS = FULL | GONE
TORCH_SAYS = (
    "no space", "file write failed", "pytorchstreamwriter", "unexpected pos", "parent directory", "iostream error",
    "open file failed with strerror",
)  # fmt: skip
"""torch.save tells of a disk in a RuntimeError of its own words, these among them in small letters."""


def is_fault(failure: BaseException | None) -> bool:
    if isinstance(failure, OSError):
        return failure.errno in FAULTS
    said = str(failure).lower()
    return isinstance(failure, RuntimeError) and any(words in said for words in TORCH_SAYS)


def reason(failure: BaseException, where: Path) -> str:
    """The fault, where it is and how much room there is, for a sentence."""
    near = next(p for p in (where, *where.absolute().parents) if p.exists())
    try:
        free = f"{shutil.disk_usage(near).free / 2**30:.1f} GB free"
    except OSError:
        free = "free space unknown"
    words = failure.strerror if isinstance(failure, OSError) and failure.strerror else str(failure).splitlines()[0]
    gone = isinstance(failure, OSError) and failure.errno in GONE
    return f"{words} at {where} ({free}); {'check that the disk is still there' if gone else 'make room'}"
