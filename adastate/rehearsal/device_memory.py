"""Bytes that are alive on the pretended device: now, at most in each phase, and who holds the most at the peak."""

from __future__ import annotations

import weakref
from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Any

from torch import Tensor

BLOCK = 512
"""torch's allocator hands out multiples of it."""

TOLD = 2**24
"""Of an allocation from here on it is kept which line made it."""


class DeviceMemory:
    """Follows storages from their first tensor to their last.

    Attributes:
        now: bytes alive.
        peaks: the most in each phase.
        largest: by phase, the biggest allocation and the line that made it.
    """

    def __init__(self, line: Callable[[], str]) -> None:
        self._line = line
        self._alive: dict[int, tuple[int, weakref.ref[Any]]] = {}
        self.now = 0
        self.peaks: Counter[str] = Counter()
        self.largest: dict[str, tuple[int, str]] = {}
        self.phase = ""

    def enter(self, phase: str) -> None:
        self.phase = phase
        self.peaks[phase] = max(self.peaks[phase], self.now)

    def restart(self) -> None:
        """Forgets the peaks, and not what is alive."""
        self.peaks.clear()
        self.largest.clear()
        self.peaks[self.phase] = self.now

    def note(self, tensor: Tensor, size: int | None = None) -> None:
        """Follows the memory of a tensor, of so many bytes if they are known, unless it is followed already."""
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self._alive:
            return
        size = -(-(storage.nbytes() if size is None else size) // BLOCK) * BLOCK
        where = self._line() if size >= TOLD else ""
        if size > self.largest.get(self.phase, (TOLD - 1, ""))[0]:
            self.largest[self.phase] = (size, where)
        self._alive[key] = (size, weakref.ref(storage, partial(self._free, key)))
        self.now += size
        if self.now > self.peaks[self.phase]:
            self.peaks[self.phase] = self.now

    def resized(self, storage: Any) -> None:
        """FSDP2 gives the memory of gathered weights up and takes it again, and keeps the tensors."""
        key = storage._cdata
        if key not in self._alive:
            return
        before, held = self._alive[key]
        size = -(-storage.nbytes() // BLOCK) * BLOCK
        self._alive[key] = (size, held)
        self.now += size - before
        self.peaks[self.phase] = max(self.peaks[self.phase], self.now)

    def _free(self, key: int, gone: Any) -> None:
        self.now -= self._alive.pop(key)[0]
