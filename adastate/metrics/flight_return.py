"""Whether a landmark is found again after the camera has looked away: where it stands and which colour it has.

What is seen in made pictures is held against what is seen in the exact render of the same poses (`spotted`). A landmark
that has gone counts as half the view off and as wrong in colour, so that forgetting is never better than a guess.
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
"""Radians from the middle to the edge of what is seen: the error of a landmark that is not there."""

DRIFTED = 0.06
"""Radians by which a landmark must have gone on before it tells who has kept it where it was."""


@dataclass(frozen=True)
class SeenAgain:
    """Of each clip `[B]`, means over the pictures in which the exact render shows the landmark; nan if none does.

    Attributes:
        found: share of those in which a landmark is there at all.
        bearing: mean error in radians; `HALF_VIEW` where none is there.
        colour: share of wrong colours; wrong where none is there.
    """

    found: Float[Tensor, " B"]
    bearing: Float[Tensor, " B"]
    colour: Float[Tensor, " B"]


def seen_again(made: Spotted, true: Spotted) -> SeenAgain:
    """What of the landmarks of `true` [B, T] is there in `made`, picture by picture."""
    there, found = true.score > FOUND, made.score > FOUND
    off = torch.where(found, (made.bearing - true.bearing).abs().clamp(max=HALF_VIEW), HALF_VIEW)
    wrong = (~found | (made.colour != true.colour)).float()
    return SeenAgain(*(_mean(values, there) for values in (found.float(), off, wrong)))


def gone_on(made: Spotted, true: Spotted, kept: Float[Tensor, "B T"]) -> Float[Tensor, " B"]:
    """How far a landmark that moves by itself has gone on, as a share of the way that it truly went.

    1 for the exact render, 0 for one that stands where it was seen last, within -1 and 2. nan for clips in which it is
    not there, or has not gone far enough to tell.

    Args:
        made, true: after the return, `[B, T]`.
        kept: bearing at which it would stand if it had kept its place, likewise, in radians.
    """
    both = (true.score > FOUND) & (made.score > FOUND)
    way = _mean(true.bearing - kept, both)
    went = _mean(made.bearing - kept, both)
    far = way.abs() > DRIFTED
    return torch.where(far, (went / torch.where(far, way, 1.0)).clamp(-1, 2), torch.nan)


def _mean(values: Tensor, where: Tensor) -> Tensor:
    return values.masked_fill(~where, torch.nan).nanmean(1)
