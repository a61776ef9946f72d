"""A loader whose workers do not answer ends the run with a sentence, in a stated time, where it would wait for ever."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")

LOOK_S = 10.0
"""Seconds without a batch after which the workers are looked at, and between two such looks."""

STOPPED_LOOKS = 6
"""Looks in a row that find a worker stopped (SIGSTOP, a debugger): a minute."""

SILENT_LOOKS = 180
"""Looks without a batch from workers that run: half an hour, longer than any storage is waited for."""


class WorkerSilent(RuntimeError):
    """A worker of the loader gives no batch."""


def watched(batches: Iterator[T]) -> Iterator[T]:
    """The batches of a torch loader's iterator that was made with a timeout of LOOK_S.

    Looks are counted, not seconds: where this process has been stopped with its workers no time has passed.

    Raises:
        WorkerSilent: a worker is stopped, or none has given a batch for too long.
    """
    stopped = silent = 0
    while True:
        try:
            batch = next(batches)
        except StopIteration:
            return
        except RuntimeError as error:
            if "DataLoader timed out" not in str(error):
                raise
            found = [process for process in _processes(batches) if is_stopped(process)]
            stopped, silent = (stopped + 1 if found else 0), silent + 1
            if stopped < STOPPED_LOOKS and silent < SILENT_LOOKS:
                continue
            who = ", ".join(map(str, found or _processes(batches)))
            how = (
                "is stopped: let it go on (kill -CONT) or end it"
                if found
                else "hangs: see whether its storage is there"
            )
            _end(_processes(batches))
            raise WorkerSilent(
                f"no batch for {LOOK_S * silent:.0f} s: a worker of the data loader (process {who}) {how}, then go on "
                "with --ckpt_path=auto"
            ) from None
        stopped = silent = 0
        yield batch


def is_stopped(process: int) -> bool:
    """Whether a process is stopped by a signal or a debugger; False where the system does not tell."""
    try:
        return Path(f"/proc/{process}/stat").read_bytes().rpartition(b")")[2].split()[0] in (b"T", b"t")
    except OSError:
        return False


def _end(processes: list[int]) -> None:
    """At once: this process would wait for them when it ends, and torch raises where it hears of it."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    for process in processes:
        with suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)


def _processes(batches: Any) -> list[int]:
    return [worker.pid for worker in getattr(batches, "_workers", [])]
