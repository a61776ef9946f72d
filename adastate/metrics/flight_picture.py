"""Quality of generated pictures: seams between a network's tokens, and coherence of successive pictures."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from adastate.metrics.flight_pose import VIEW, best_match, cylinder, tilt

GROUND = -0.24
"""Tangent of the elevation down to which pictures are matched: includes land from about 40 units away."""

RISE = 1
"""Rows by which a picture may be shifted vertically against the next, for climbs."""


def seam_ratio(video: Float[Tensor, "B T 3 h w"], step: int) -> float:
    """Mean difference of neighbouring pixels across the borders of squares of `step` pixels, over that within them.

    In both directions, over all clips. 1: no visible seam. Real pictures are not at 1 either (a horizon may lie at a
    border, and the middle has more detail than the rim), so compare with theirs.
    """
    ratios = []
    for change in (video.diff(dim=-1), video.diff(dim=-2).transpose(-1, -2)):
        size = change.abs().flatten(0, -2).mean(0)
        border = torch.arange(1, len(size) + 1) % step == 0
        if not border.any() or border.all():
            raise ValueError(f"squares of {step} pixels in {len(size) + 1}: use squares of 2 pixels to half of them")
        ratios.append(size[border].mean() / size[~border].mean().clamp(min=1e-9))
    return float(sum(ratios)) / 2


def match(video: Float[Tensor, "B T 3 h w"], view: float = VIEW, most: float = 0.3) -> Float[Tensor, "B T-1"]:
    """Similarity of the distant part of successive pictures, after the turn (within `most` radians) that fits best.

    The cosine of their reliefs (each pixel minus the mean of 9 rows by 17 columns around it) in a cylinder with the
    banks removed, or in one where they are not, whichever is larger: 1 for a picture that has only turned, about .2 for
    unrelated pictures.
    """
    banks = tilt(video)
    unrolled = [cylinder(video, bank, view, rows=34, low=GROUND) for bank in (banks, torch.zeros_like(banks))]
    alike = [best_match(far, seen, (9, 17), most, view, RISE)[0].amax(-1) for far, seen in unrolled]
    return torch.maximum(*alike)


@dataclass(frozen=True)
class Coherence:
    """Mean `match` of successive pictures of each clip `[B]`, within one latent frame, and across two."""

    within: Float[Tensor, " B"]
    across: Float[Tensor, " B"]


def match_across(video: Float[Tensor, "B T 3 h w"], group: int = 3) -> Coherence:
    """Coherence of clips whose latent frames decode to `group` pictures each; the first begins with picture 0."""
    pictures = video.shape[1]
    if group < 2 or pictures <= group:
        raise ValueError(f"{pictures} pictures in groups of {group}: at least two groups of 2 or more are needed")
    alike, border = match(video), torch.arange(1, pictures) % group == 0
    return Coherence(alike[:, ~border].mean(1), alike[:, border].mean(1))
