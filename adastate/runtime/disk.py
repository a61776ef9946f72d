"""What a disk is to blame for: it is full, broken, gone or too slow, and nothing in the program is wrong."""

from __future__ import annotations

import errno
import shutil
from pathlib import Path

FAULTS = frozenset(
    (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS, errno.EFBIG, errno.ESTALE, errno.ETIMEDOUT, errno.ENOENT)
)
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
    return f"{words} at {where} ({free}); make room"
