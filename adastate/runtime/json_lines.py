"""Files of JSON lines, which a process that is killed may leave with half a line at the end."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any


def append(path: Path, record: Any) -> None:
    """Adds a line in one write; half a line that stands at the end is ended first, so that it takes no other with it.

    Raises:
        OSError: the disk does not take it.
    """
    with path.open("a+b", buffering=0) as file:
        end = file.seek(0, os.SEEK_END)
        if end:
            file.seek(end - 1)
        broken = end > 0 and file.read(1) != b"\n"
        file.write(b"\n" * broken + json.dumps(record).encode() + b"\n")


def whole_records(path: Path) -> list[Any]:
    """The records of its whole lines; none without such a file."""
    found = []
    for line in path.read_bytes().split(b"\n") if path.is_file() else ():
        try:
            found.append(json.loads(line))
        except (ValueError, RecursionError):
            continue  # half a line, or the empty end
    return found
