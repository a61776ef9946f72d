"""Measures seconds and their spread."""

from __future__ import annotations

import statistics
import time

import torch

Spread = tuple[float, float, float]
"""Median, lower and upper quartile."""


class DeviceClock:
    """Seconds; from device events on a GPU."""

    def __init__(self, device: str) -> None:
        self.cuda = device.startswith("cuda")

    def __call__(self) -> float:
        if self.cuda:
            torch.cuda.synchronize()
        return time.perf_counter()


def quartiles(values: list[float]) -> Spread:
    if len(values) < 2:
        return (values[0],) * 3
    low, median, high = statistics.quantiles(values, n=4)
    return median, low, high


def ratios(slow: list[float], fast: list[float]) -> Spread:
    """Speed-up, round by round."""
    return quartiles([a / b for a, b in zip(slow, fast, strict=True)])


def spread_in_words(q: Spread | None, digits: int) -> str:
    return "" if q is None else f"{q[0]:.{digits}f} ({q[1]:.{digits}f} to {q[2]:.{digits}f})"


def product_rate(device: str, side: int = 8192) -> float:
    """FLOP per second of a large bf16 matrix product."""
    a = torch.randn(side, side, device=device, dtype=torch.bfloat16)
    clock, took = DeviceClock(device), []
    for _ in range(12):
        began = clock()
        a @ a
        took.append(clock() - began)
    return 2 * side**3 / statistics.median(took[2:])
