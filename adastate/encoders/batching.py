"""How many streams go at a time, where nobody says."""

from __future__ import annotations

BATCH_LATENTS = 1024
"""Latents of a frame, over all streams of a batch: one stream of Wan's size, 16 of the tiny one."""


def streams_at_once(grid: tuple[int, int]) -> int:
    """A batch of streams, or clips, of latents of this height and width that a device of ordinary size bears."""
    return max(1, BATCH_LATENTS // (grid[0] * grid[1]))


def portions(rows: int, grid: tuple[int, int]) -> list[range]:
    """Rows 0, 1, ... in such batches."""
    size = streams_at_once(grid)
    return [range(first, min(first + size, rows)) for first in range(0, rows, size)]
