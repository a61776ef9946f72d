"""Ends a run with a message, within a stated time, when loader workers do not respond and it would wait forever."""

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
"""Seconds without a batch after which the workers are checked, and between two checks."""

STOPPED_LOOKS = 6
"""Consecutive checks that find a worker stopped (SIGSTOP, a debugger): a minute."""

SILENT_LOOKS = 180
"""Checks without a batch from running workers: half an hour, longer than any storage is waited for."""


class WorkerSilent(RuntimeError):
    """A worker of the loader does not deliver batches."""


def watched(batches: Iterator[T]) -> Iterator[T]:
    """Passes on the batches of a torch loader's iterator that has a timeout of LOOK_S.

    Raises:
        WorkerSilent: a worker is stopped, or none has delivered a batch for too long.
    """
    watch = _Watch(batches)
    try:
        yield from _patiently(batches, watch)
    except Exception as error:  # torch may report a worker that the watch has killed at any line above
        if not watch.stopped or isinstance(error, WorkerSilent):
            raise
        raise _silent(batches, watch.stopped, STOPPED_LOOKS, "was stopped and has been killed") from None
    finally:
        watch.end()


def _patiently(batches: Iterator[T], watch: _Watch) -> Iterator[T]:
    silent = 0
    while True:
        try:
            with watch:
                batch = next(batches)
        except StopIteration:
            return
        except Exception as error:
            if watch.stopped or "DataLoader timed out" not in str(error):
                raise
            silent += 1
            if silent == SILENT_LOOKS:
                raise _silent(
                    batches, _processes(batches), silent, "hangs: check that its storage is available"
                ) from None
            continue
        silent = 0
        yield batch


def _silent(batches: Any, workers: list[int], looks: int, how: str) -> WorkerSilent:
    """Kills all workers; the message names `workers`."""
    _end(_processes(batches))
    return WorkerSilent(
        f"no batch for {LOOK_S * looks:.0f} s: a worker of the data loader (process {', '.join(map(str, workers))}) "
        f"{how}; then resume with --ckpt_path=auto"
    )


class _Watch:
    """Kills workers that are stopped while a batch is awaited, from its own thread: torch itself waits without any
    timeout for a batch that such a worker has in its queue.

    Checks are counted, not seconds: while this process was stopped together with its workers, no time has passed.

    Attributes:
        stopped: the workers that it has killed.
    """

    def __init__(self, batches: Any) -> None:
        self.batches, self.stopped = batches, list[int]()
        self._given = self._looks = 0
        self._waiting, self._over = False, threading.Event()
        threading.Thread(target=self._look, name="worker watch", daemon=True).start()

    def __enter__(self) -> None:
        self._waiting = True

    def __exit__(self, failed: object, *_: object) -> None:
        self._waiting = False
        self._given += failed is None

    def end(self) -> None:
        self._over.set()

    def _look(self) -> None:
        before = 0
        while not self._over.wait(LOOK_S):
            found = [process for process in _processes(self.batches) if is_stopped(process)] if self._waiting else []
            same, before = self._given == before, self._given
            self._looks = self._looks + 1 if found and (same or not self._looks) else 0
            if self._looks >= STOPPED_LOOKS:
                self.stopped = found
                for process in found:
                    with suppress(ProcessLookupError):
                        os.kill(process, signal.SIGKILL)
                return


def is_stopped(process: int) -> bool:
    """Whether a process is stopped by a signal or a debugger; False if the system does not report it."""
    try:
        return Path(f"/proc/{process}/stat").read_bytes().rpartition(b")")[2].split()[0] in (b"T", b"t")
    except OSError:
        return False


def _end(processes: list[int]) -> None:
    """Kills immediately: this process would wait for them when it exits, and torch raises when it notices."""
    while threading.current_thread() is threading.main_thread():
        with suppress(RuntimeError):  # raised by torch's handler, for a worker that is already dead
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            break
    for process in processes:
        with suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)


def _processes(batches: Any) -> list[int]:
    return [worker.pid for worker in getattr(batches, "_workers", [])]
