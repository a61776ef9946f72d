"""Curves of a run, read back from its TensorBoard events."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path

LOSSES = ("codec/error", "teacher/loss", "init/loss", "student/loss", "critic/loss")
"""Tags of what the stages minimise. The student's distillation loss is the exception: it says how far two scores are
apart, and need not fall."""


def read_curves(folder: Path, tags: Sequence[str] = LOSSES, since: float = 0.0) -> dict[str, list[float]]:
    """Values of the curves that a stage's folder holds, in order of their steps.

    Where a run that was gone on with has logged a step twice, the later value counts. What was logged before `since`,
    in seconds since 1970, belongs to another attempt.
    """
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    if not any(folder.glob("events.out.tfevents.*")):
        return {}
    events = EventAccumulator(str(folder), size_guidance={"scalars": 0}, purge_orphaned_data=False).Reload()
    found = {}
    for tag in tags:
        if tag in events.Tags()["scalars"]:
            mine = sorted((e for e in events.Scalars(tag) if e.wall_time >= since), key=lambda e: e.wall_time)
            latest = {event.step: event.value for event in mine}
            if latest:
                found[tag] = [latest[step] for step in sorted(latest)]
    return found


def first_and_last_means(values: list[float], share: float = 0.1) -> tuple[float, float]:
    """Means of the first and of the last `share` of a curve, at least one value each."""
    n = max(1, round(share * len(values)))
    return statistics.fmean(values[:n]), statistics.fmean(values[-n:])
