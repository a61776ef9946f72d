"""Work beside the main work: a chunk is decoded and written while the next one is denoised."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager

import torch

from adastate.types import Chunk


class DecodeWorker:
    """Work that is done beside the caller's: in a thread, and on a GPU in a stream of its own; or else at once.

    Args:
        overlap: whether to; None: on a GPU.
    """

    WAITING = 2
    """Pieces of work that may wait; then the caller does."""

    def __init__(self, device: torch.device, overlap: bool | None = None) -> None:
        self._cuda = device.type == "cuda"
        self._thread = ThreadPoolExecutor(1) if (self._cuda if overlap is None else overlap) else None
        self._stream = torch.cuda.Stream(device) if self._cuda and self._thread else None
        self._pending: deque[Future[None]] = deque()

    @property
    def overlaps(self) -> bool:
        return self._thread is not None

    def __enter__(self) -> DecodeWorker:
        return self

    def __exit__(self, *error: object) -> None:
        if self._thread is not None:
            self._thread.shutdown(cancel_futures=True)

    def submit(self, work: Callable[[Chunk, torch.cuda.Event | None], None], chunk: Chunk) -> None:
        """`work` on a chunk, one after another, in this order. What it raises is raised by a later call."""
        ready = torch.cuda.current_stream().record_event() if self._stream is not None else None
        if self._thread is None:
            work(chunk, ready)
            return
        while len(self._pending) >= self.WAITING:
            self._pending.popleft().result()
        self._pending.append(self._thread.submit(work, chunk, ready))

    def finish(self) -> None:
        while self._pending:
            self._pending.popleft().result()

    @contextmanager
    def stream_context(self, ready: torch.cuda.Event | None) -> Iterator[None]:
        """Within `work`: its stream, once `ready` has passed; gradients are off, which a thread does not inherit."""
        with torch.no_grad(), ExitStack() as stack:
            if self._stream is not None and ready is not None:
                stack.enter_context(torch.cuda.stream(self._stream))
                self._stream.wait_event(ready)
            yield
