"""Time limits and retries of reads, and the messages for failed ones."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any, TypeVar

from adastate.runtime import secrets
from datamodules.shards.shard_error import ShardError

T = TypeVar("T")

AGAIN = (408, 425, 429)
"""HTTP statuses, besides 500 and above, that are worth a retry."""

ANSWERS = {
    401: "requires authentication (HTTP 401): put a user or a token in its URL, as ${oc.env:NAME}",
    403: "denies access (HTTP 403): its token or signature is wrong or has expired",
    404: "does not exist (HTTP 404): check its name",
    410: "no longer exists (HTTP 410): check its name",
}


@dataclass
class Patience:
    """Time limit and number of tries of a read.

    Args:
        seconds: time limit of one try.
        tries: before the file counts as out of reach; afterwards a single try is made, so that a dead disk does not
            stop a whole job for each of its samples.
        pause: seconds before the second try, doubled before each further one.
    """

    seconds: float = 60.0
    tries: int = 3
    pause: float = 1.0
    _down: set[str] = field(default_factory=set)
    _helper: _Helper | None = field(default=None, repr=False)

    def __call__(self, work: Callable[[], T], of: object) -> T:
        """Returns the result of `work`.

        Raises:
            OSError: FileNotFoundError or PermissionError at once, or the last failure after all tries; no message
                contains a secret.
        """
        tries = 1 if str(of) in self._down else self.tries
        for i in range(tries):
            try:
                found = self._within(work)
                self._down.discard(str(of))
                return found
            except (FileNotFoundError, PermissionError, IsADirectoryError, ShardError):
                raise
            except Exception as error:  # every client has its own exceptions
                status = getattr(error, "status", None)
                if status in ANSWERS:
                    raise (PermissionError if status in (401, 403) else FileNotFoundError)(ANSWERS[status]) from None
                final = isinstance(status, int) and status < 500 and status not in AGAIN
                if final or i + 1 == tries:
                    self._down.add(str(of))
                    if isinstance(of, Path) and isinstance(error, OSError):
                        raise
                    asked = "" if final else f", tried {tries} times" if tries > 1 else ", tried once more"
                    raise OSError(f"{_said(error, status)}{asked}") from None
            time.sleep(self.pause * 2**i)
        raise AssertionError("unreachable")

    def _within(self, work: Callable[[], T]) -> T:
        """Runs `work` in another thread, as a read from a dead disk cannot be interrupted, only abandoned."""
        helper = self._helper
        if helper is None or helper.process != os.getpid():
            helper = self._helper = _Helper()
        try:
            found, error = helper.run(work, self.seconds)
        except Empty:
            self._helper = None
            raise TimeoutError(f"no answer within {self.seconds:g} s") from None
        if error is not None:
            raise error
        return found

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_helper": None}


class _Helper:
    """A daemon thread that runs one job at a time, and ends with its owner; a forked process needs its own."""

    def __init__(self) -> None:
        self.process = os.getpid()
        self.todo: SimpleQueue[Callable[[], Any] | None] = SimpleQueue()
        self.done: SimpleQueue[tuple[Any, Exception | None]] = SimpleQueue()
        threading.Thread(target=self._work, args=(self.todo, self.done), name="patience", daemon=True).start()

    def run(self, work: Callable[[], Any], seconds: float) -> tuple[Any, Exception | None]:
        self.todo.put(work)
        try:
            return self.done.get(timeout=seconds)
        except Empty:
            self.todo.put(None)  # it ends when its current job does
            raise

    def __del__(self) -> None:
        self.todo.put(None)  # the thread holds only the queues, and ends with its owner

    @staticmethod
    def _work(todo: SimpleQueue[Callable[[], Any] | None], done: SimpleQueue[tuple[Any, Exception | None]]) -> None:
        while work := todo.get():
            try:
                done.put((work(), None))
            except Exception as error:
                done.put((None, error))


def _said(error: Exception, status: int | None) -> str:
    if status:
        return f"HTTP {status} {getattr(error, 'message', '')}".strip()
    known = isinstance(error, TimeoutError) and str(error)
    return str(error) if known else secrets.redacted(f"{type(error).__name__}: {error}")
