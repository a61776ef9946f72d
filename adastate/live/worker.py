"""The one thread that owns the model: whatever touches a session or the weights is done there, one job at a time."""

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

    What a job raises is raised to whoever waits for it; the thread lives on.
    """

    def __init__(self) -> None:
        self._jobs: queue.SimpleQueue[tuple[Callable[[], Any], Future[Any]] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="live-model", daemon=True)
        self._thread.start()

    async def call(self, job: Callable[[], Result]) -> Result:
        """What the job returns; it is done even if nobody waits for it any more."""
        future: Future[Result] = Future()
        self._jobs.put((job, future))
        return await asyncio.shield(asyncio.wrap_future(future))

    def close(self, timeout: float = 10.0) -> None:
        """Waits for the job that is being done; those behind it are left."""
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
