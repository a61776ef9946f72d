"""Lists of denoising steps as configurations give them, checked without torch."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

TIMESTEPS = 1000
"""Entries of the noise table; timesteps run from 0 to it."""


def check_steps(steps: Sequence[float]) -> None:
    """Raises ValueError unless these are whole numbers in 1..1000 that fall."""
    if not steps or any(not 1 <= s <= TIMESTEPS or s != int(s) for s in steps):
        raise ValueError(f"a step list holds whole numbers from 1 to {TIMESTEPS}, got {list(steps)}")
    if any(a <= b for a, b in pairwise(steps)):
        raise ValueError(f"a step list runs from noise to data, so it must fall; got {list(steps)}")
