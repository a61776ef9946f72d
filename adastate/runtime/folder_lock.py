"""One run in a folder at a time: who holds it is written in `run.lock`, and whether it still does the system knows.

The lock is a record lock on that file. It ends with the process, however that dies, and no child inherits it, so a file
that is left behind locks nothing. Where the file system has no locks, the process that is written there is looked for,
which finds those of the same machine.
"""

from __future__ import annotations

import errno
import json
import os
import socket
import time
from pathlib import Path

try:
    import fcntl
except ImportError:  # a system without them
    fcntl = None  # type: ignore[assignment]

NAME = "run.lock"
_held: dict[tuple[Path, int], int] = {}
"""Open files by folder and process. To close another handle of such a file would end the lock: it is opened once."""


class FolderInUse(RuntimeError):
    """Another run holds the folder; the sentence says which."""


def acquire(folder: Path) -> str:
    """Takes the folder for this process; what an earlier holder left in it, "" if that ended well or never was.

    Raises:
        FolderInUse: another process, on whatever machine, has it.
    """
    key = (folder.absolute(), os.getpid())
    if key in _held or fcntl is None:
        return ""
    folder.mkdir(parents=True, exist_ok=True)
    handle = os.open(folder / NAME, os.O_RDWR | os.O_CREAT, 0o644)
    told = _holder(os.pread(handle, 4096, 0))
    try:
        fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        here = error.errno in (errno.EACCES, errno.EAGAIN)
        if not here:  # a file system without locks: what is written there tells of processes of this machine
            here = _lives(os.pread(handle, 4096, 0))
        if not here:
            _write(handle)
            _held[key] = handle
            return told
        os.close(handle)
        raise FolderInUse(
            f"{folder} is in use by {told or 'another run'}: wait for its end, or set RUN=another/folder"
        ) from error
    _held[key] = handle
    _write(handle)
    return told


def release(folder: Path) -> None:
    """Gives the folder up, if this process has it; the file then says that nobody does."""
    handle = _held.pop((folder.absolute(), os.getpid()), None)
    if handle is not None:
        os.ftruncate(handle, 0)
        os.close(handle)


def _write(handle: int) -> None:
    mine = {
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "start": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }
    if (born := _born(os.getpid())) is not None:
        mine["born"] = born
    os.ftruncate(handle, 0)
    os.pwrite(handle, json.dumps(mine).encode(), 0)


def _born(process: int) -> str | None:
    """The boot of this machine and the moment of it in which a process began; None where the system does not tell."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        told = Path(f"/proc/{process}/stat").read_text(encoding="utf-8", errors="replace")
        return f"{boot} {told.rpartition(')')[2].split()[19]}"
    except (OSError, IndexError):
        return None


def _lives(content: bytes) -> bool:
    """Whether the holder is a process of this machine that there is still."""
    try:
        told = json.loads(content)
        if told["host"] != socket.gethostname() or int(told["pid"]) == os.getpid():
            return False
        os.kill(int(told["pid"]), 0)
        born = _born(int(told["pid"]))
        if None not in (born, told.get("born")) and born != told["born"]:
            return False  # another process has its number now, as they come around soon in a container
    except PermissionError:
        return True  # somebody else's
    except (ValueError, KeyError, TypeError, OSError, OverflowError):
        return False
    return True


def _holder(content: bytes) -> str:
    try:
        told = json.loads(content)
        return f"process {told['pid']} on {told['host']} since {told['start']}"
    except (ValueError, KeyError, TypeError):
        return ""
