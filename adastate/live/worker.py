"""The one thread that owns the model: all access to sessions and weights runs there, one job at a time."""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

Result = TypeVar("Result")


class Worker:
    """A thread with a queue of jobs, for one asyncio loop.

    Exceptions of a job are raised in its caller; the thread keeps running.
    """

    def __init__(self) -> None:
        self._jobs: queue.SimpleQueue[tuple[Callable[[], Any], Future[Any]] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="live-model", daemon=True)
        self._thread.start()

    async def call(self, job: Callable[[], Result]) -> Result:
        """The job's result; the job is done even if its caller no longer waits."""
        future: Future[Result] = Future()
        self._jobs.put((job, future))
        return await asyncio.shield(asyncio.wrap_future(future))

    def close(self, timeout: float = 10.0) -> None:
        """Waits for the running job; queued jobs are dropped."""
        self._jobs.put(None)
        self._thread.join(timeout)

    def _run(self) -> None:
        while (item := self._jobs.get()) is not None:
            job, future = item
            if not future.set_running_or_notify_cancel():
                continue
            try:
                result = job()
            except BaseException as error:
                future.set_exception(error)
            else:
                future.set_result(result)
            del item, job, future
