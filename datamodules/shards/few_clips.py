"""Whether a set of clips is so small that what is trained on it learns it by heart."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from adastate.runtime.spelling import how_many

FEW = 1000
"""Clips without overlap below which one is warned. Assumed: 95 of three videos were memorised (docs/results/tiny.md),
24,000 flights were not, and nothing between them was measured."""


def few_clips(clips: int, where: str, index: Mapping[str, Any]) -> str:
    """A sentence with the number of clips and the remedy; empty if there are enough.

    Args:
        index: what index.json says of the set, as far as there is one: clips that overlap count by what is new in them.
    """
    found = (index.get("settings"), index.get("sources"))
    settings, sources = (part if isinstance(part, dict) else {} for part in found)
    pictures, stride = settings.get("pictures"), settings.get("stride")
    share = stride / pictures if isinstance(stride, int) and isinstance(pictures, int) and 0 < stride < pictures else 1
    if clips * share >= FEW:
        return ""
    used = sum(not isinstance(source, dict) or source.get("clips") != 0 for source in sources.values())
    videos = f" of {how_many(used, 'video')}" if used else ""
    overlap = ", which overlap" if share < 1 else ""
    return (
        f"{where} has only {how_many(clips, 'clip')}{videos}{overlap}: a network learns so few by heart and repeats "
        f"them; add {'videos' if used else 'clips'} until there are {FEW:,} clips without overlap, or more"
    )
