"""Stops bad updates: what is not finite, or far above what came before, is not stepped upon."""

from __future__ import annotations

import math
import statistics
from collections import deque


class SpikeGuard:
    """Looks at losses and gradient norms by name before every update.

    A value that is not finite is bad. So is one above `spike` times the median of the last `window` good ones of its
    name, once there are `least` of them. What is bad is not remembered.

    Args:
        spike: 0 turns the second rule off.
        patience: bad updates in a row after which `exhausted` holds.
    """

    def __init__(self, spike: float = 10.0, window: int = 100, least: int = 20, patience: int = 5) -> None:
        if spike < 0 or 0 < spike <= 1:
            raise ValueError(f"spike is {spike}; it is a factor above 1, or 0 for off")
        self.spike, self.least, self.patience = spike, least, patience
        self._past: dict[str, deque[float]] = {}
        self.window = window
        self.in_a_row = 0
        self.skipped = 0

    def check(self, values: dict[str, float]) -> str:
        """What is wrong with an update's values, in a few words; "" if nothing is, and then they are remembered.

        `settle` ends a row of bad ones.
        """
        for name, value in values.items():
            if not math.isfinite(value):
                return self._bad(f"{name} is {value}")
            past = self._past.get(name, ())
            if self.spike and len(past) >= self.least:
                usual = statistics.median(past)
                if value > self.spike * usual > 0:
                    return self._bad(f"{name} is {value:.3g}, {value / usual:.0f} times the usual {usual:.3g}")
        for name, value in values.items():
            self._past.setdefault(name, deque(maxlen=self.window)).append(value)
        return ""

    def reset(self) -> None:
        """An iteration has gone well."""
        self.in_a_row = 0

    def _bad(self, said: str) -> str:
        self.in_a_row += 1
        self.skipped += 1
        return said

    @property
    def exhausted(self) -> bool:
        return self.in_a_row >= self.patience

    def state_dict(self) -> dict[str, object]:
        past = {name: list(values) for name, values in self._past.items()}
        return {"past": past, "in_a_row": self.in_a_row, "skipped": self.skipped}

    def load_state_dict(self, state: dict[str, object]) -> None:
        past = state["past"]
        assert isinstance(past, dict)
        self._past = {name: deque(values, maxlen=self.window) for name, values in past.items()}
        self.in_a_row, self.skipped = int(str(state["in_a_row"])), int(str(state["skipped"]))
