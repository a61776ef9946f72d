"""Measurements of a preview's pictures, as curves over training: does it keep its colours, and does it move?"""

from __future__ import annotations

import torch
from torch import Tensor

from adastate import metrics
from adastate.media.video import to_float

KEPT = {"contrast": metrics.contrast, "saturation": metrics.saturation, "sharpness": metrics.sharpness}
"""Qualities that should stay constant along a stream."""


def measure_last_second(chunks: list[Tensor], fps: int) -> dict[str, float]:
    """Measures the last second of a rollout, averaged over the prompts; names as in `callbacks.previews.tags.measured`.

    `chunks` are its pictures `[B, T, 3, h, w]`, uint8, at `fps` pictures per second.

    `contrast`, `saturation`, `sharpness` as in adastate.metrics; `change` between successive pictures and
    `change_half_second`, both divided by the contrast: flicker raises the first but not the second. And
    `<quality>_drift`, |log(last / first second)|. A rollout shorter than a second is measured in full.
    """
    clip = torch.cat(_ends(chunks, fps), 1)
    first, last = (to_float(part) for part in (clip[:, :fps], clip[:, -fps:]))
    found = {}
    for name, quality in KEPT.items():
        found[name] = float(quality(last).mean())
        found[f"{name}_drift"] = float(metrics.drift(quality(first), quality(last)).mean())
    for name, gap in (("change", 1), ("change_half_second", max(1, fps // 2))):
        if last.shape[1] > gap:
            found[name] = float(metrics.change(last, gap).mean())
    return found


def _ends(chunks: list[Tensor], pictures: int) -> list[Tensor]:
    """The chunks that cover this many pictures at both ends, so that a long rollout need not be concatenated."""
    total, ahead, kept = sum(c.shape[1] for c in chunks), 0, []
    for chunk in chunks:
        if ahead < pictures or ahead + chunk.shape[1] > total - pictures:
            kept.append(chunk)
        ahead += chunk.shape[1]
    return kept
