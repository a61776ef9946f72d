"""Memory in use on the simulated device: current bytes, peaks by phase, and the largest allocations at the peak."""

from __future__ import annotations

import weakref
from collections import Counter, defaultdict
from collections.abc import Callable
from functools import partial
from typing import Any

from torch import Tensor

BLOCK = 512
"""torch's allocator rounds sizes up to multiples of this."""

TOLD = 2**24
"""Allocations of at least this size are recorded with the line that made them."""


class DeviceMemory:
    """Tracks storages from their first tensor to their last.

    Attributes:
        now: bytes in use.
        peaks: maximum in each phase.
        moments: by phase, the maximum at allocations of each size and line. At another depth another moment may be the
            peak; see `adastate.rehearsal.shallow.drawn_on_peak`.
        largest: by phase, the largest allocation and the line that made it.
    """

    def __init__(self, line: Callable[[], str]) -> None:
        self._line = line
        self._alive: dict[int, tuple[int, weakref.ref[Any]]] = {}
        self.now = 0
        self.peaks: Counter[str] = Counter()
        self.moments: defaultdict[str, Counter[tuple[int, str]]] = defaultdict(Counter)
        self.largest: dict[str, tuple[int, str]] = {}
        self.phase = ""

    def enter(self, phase: str) -> None:
        self.phase = phase
        self.peaks[phase] = max(self.peaks[phase], self.now)

    def restart(self) -> None:
        """Resets the peaks, but not what is in use."""
        self.peaks.clear()
        self.largest.clear()
        self.moments.clear()
        self.peaks[self.phase] = self.now

    def note(self, tensor: Tensor, size: int | None = None) -> None:
        """Tracks the memory of a tensor, with `size` bytes if given, unless it is tracked already."""
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
        moments = self.moments[self.phase]
        if self.now > moments[size, where]:
            moments[size, where] = self.now

    def resized(self, storage: Any) -> None:
        """FSDP2 frees and reallocates the memory of gathered weights, but keeps the tensors."""
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
