"""Whether a landmark is found again after the camera has looked away: its position and its colour.

Generated pictures are compared with the exact render of the same poses (`spotted`). A missing landmark counts as an
error of half the view and as a wrong colour, so that forgetting is never better than a guess.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from adastate.metrics.flight_landmarks import FOUND, Spotted
from adastate.metrics.flight_pose import VIEW

HALF_VIEW = math.atan(VIEW / 2)
"""Radians from the middle to the edge of the view: the error of a missing landmark."""

DRIFTED = 0.06
"""Radians that a landmark must have moved before the measure can tell whether it was kept in place."""


@dataclass(frozen=True)
class SeenAgain:
    """For each clip `[B]`, means over the pictures in which the exact render shows the landmark; nan if none does.

    Attributes:
        found: share of those in which any landmark is present.
        bearing: mean error in radians; `HALF_VIEW` if missing.
        colour: share of wrong colours; wrong if missing.
    """

    found: Float[Tensor, " B"]
    bearing: Float[Tensor, " B"]
    colour: Float[Tensor, " B"]


def seen_again(made: Spotted, true: Spotted) -> SeenAgain:
    """Compares the landmarks of `made` with those of `true` [B, T], picture by picture."""
    there, found = true.score > FOUND, made.score > FOUND
    off = torch.where(found, (made.bearing - true.bearing).abs().clamp(max=HALF_VIEW), HALF_VIEW)
    wrong = (~found | (made.colour != true.colour)).float()
    return SeenAgain(*(_mean(values, there) for values in (found.float(), off, wrong)))


def gone_on(made: Spotted, true: Spotted, kept: Float[Tensor, "B T"]) -> Float[Tensor, " B"]:
    """How far a self-moving landmark has moved, as a share of the distance that it should have.

    1 for the exact render, 0 for one that stays where it was last seen, clamped to -1 to 2. nan for clips in which it
    is missing, or has not moved far enough to tell.

    Args:
        made, true: after the return, `[B, T]`.
        kept: bearing that it would have if it had not moved, `[B, T]`, in radians.
    """
    both = (true.score > FOUND) & (made.score > FOUND)
    way = _mean(true.bearing - kept, both)
    went = _mean(made.bearing - kept, both)
    far = way.abs() > DRIFTED
    return torch.where(far, (went / torch.where(far, way, 1.0)).clamp(-1, 2), torch.nan)


def _mean(values: Tensor, where: Tensor) -> Tensor:
    return values.masked_fill(~where, torch.nan).nanmean(1)
