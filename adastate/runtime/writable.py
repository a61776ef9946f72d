"""Whether a folder can be written, found out before anything is computed for it."""

from __future__ import annotations

import errno
import os
import tempfile
from pathlib import Path

LONGEST = 255
"""Bytes of a name that file systems take."""


def check_writable(folder: Path, remedy: str = "give another folder") -> None:
    """Refuses a folder that cannot be written, or not be made where there is none; nothing is left behind.

    Raises:
        ValueError: why not, and the remedy.
    """
    try:
        if long := next((name for name in folder.parts if len(os.fsencode(name)) > LONGEST), None):
            raise OSError(errno.ENAMETOOLONG, f"the name {long[:20]}... is too long")
        near = folder.absolute()
        while not os.path.lexists(near):
            near = near.parent
        if not near.is_dir():
            raise OSError(errno.ENOTDIR, f"{near} is not a folder")
        with tempfile.TemporaryFile(dir=near):
            pass
    except OSError as error:
        why = "no file can be made there" if isinstance(error, FileNotFoundError) else error.strerror
        raise ValueError(f"cannot write to {folder} ({why}); {remedy}") from error


def check_file(file: Path, remedy: str) -> None:
    """Refuses a file that is a folder, or whose folder cannot be written.

    Raises:
        ValueError: why not, and the remedy.
    """
    if file.is_dir():
        raise ValueError(f"cannot write to {file} (it is a folder); {remedy}")
    check_writable(file.parent, remedy)
