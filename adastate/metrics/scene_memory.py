"""A rollout and its own past: how far it has left its first view, and whether old content returns."""

from __future__ import annotations

import math
from itertools import pairwise

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from adastate.metrics.colour import apart

SIDE = 8
"""Side in pixels at which pictures are compared, small enough that a shift by a pixel or two matters little."""


def thumbnails(video: Float[Tensor, "B T 3 h w"], side: int = SIDE) -> Float[Tensor, "B T {3*side*side}"]:
    """Pictures scaled down and flattened."""
    small = nn.functional.adaptive_avg_pool2d(video.flatten(0, 1), side)
    return small.flatten(1).unflatten(0, video.shape[:2])


def departure(video: Float[Tensor, "B T 3 h w"], first: int = 8) -> Float[Tensor, "B T"]:
    """How different each picture is from the most similar of the first `first` pictures.

    Mean squared difference of thumbnails over twice the variance within them: 0 for a still, about 1 for another place
    of the same kind, more if the colours have changed too. It grows with the time that a flight takes to leave its
    first view, so compare it with that of the true flight.
    """
    small = thumbnails(video)
    per_channel = small.unflatten(-1, (3, -1))
    spread = per_channel.var(-1).mean((1, 2)).clamp_min(1e-6)
    distance = torch.cdist(small, small[:, :first]).square() / small.shape[-1]
    return distance.amin(2) / (2 * spread[:, None])


def across_gaps(hues: Float[Tensor, "B T"], rate: Float[Tensor, " B"], least: int) -> Float[Tensor, "B T"]:
    """How far a hue is from the expected one after it was out of view, in turns, 0 to 0.5.

    The first picture after every gap that follows a hue has a value; nan everywhere else. Unrelated hues are 0.25 apart
    on average.

    Args:
        hues: in turns; nan where there is none.
        rate: turns per picture, for each row.
        least: pictures of the shortest gap that counts.
    """
    found = torch.full_like(hues, math.nan)
    for row, (line, pace) in enumerate(zip(hues, rate.tolist(), strict=True)):
        seen = (~line.isnan()).nonzero()[:, 0].tolist()
        for before, after in pairwise(seen):
            if after - before > least:
                due = line[before] + pace * (after - before)
                found[row, after] = apart(line[after], due)
    return found


def likeness(video: Float[Tensor, "B T 3 h w"]) -> Float[Tensor, "B T T"]:
    """Correlation of the thumbnails of every two pictures, with each channel's mean removed; 1 is the same."""
    small = thumbnails(video).unflatten(-1, (3, -1))
    centred = (small - small.mean(-1, keepdim=True)).flatten(2)
    unit = centred / centred.norm(dim=-1, keepdim=True).clamp_min(1e-6)
    return unit @ unit.transpose(1, 2)


def repetition(video: Float[Tensor, "B T 3 h w"], gap: int) -> Float[Tensor, "B T"]:
    """Largest similarity of each picture to one at least `gap` before it; nan if there is none.

    The maximum over more candidates is larger, so it grows with time even in a true flight: compare it with that.
    """
    alike = likeness(video)
    late = torch.arange(video.shape[1], device=video.device)
    allowed = late[None, :] <= late[:, None] - gap
    found = alike.masked_fill(~allowed, -math.inf).amax(2)
    return torch.where(allowed.any(1), found, math.nan)


def loop(video: Float[Tensor, "B T 3 h w"], shortest: int = 4) -> tuple[Int[Tensor, " B"], Float[Tensor, " B"]]:
    """(period in pictures, strength): the lag between `shortest` and half the clip at which a clip is most similar to
    itself, and its mean similarity there. A loop has strength 1 at its period, the shortest of equally good lags; a
    still repeats at every lag, so its period is `shortest`."""
    alike, pictures = likeness(video), video.shape[1]
    if pictures < 2 * shortest:
        raise ValueError(f"{pictures} pictures are too few for a period of {shortest} or more: give twice as many")
    lags = range(shortest, pictures // 2 + 1)
    mean = torch.stack([alike.diagonal(-lag, 1, 2).mean(1) for lag in lags], 1)
    at = (mean >= mean.amax(1, keepdim=True) - 1e-3).float().argmax(1)
    return at + shortest, mean.gather(1, at[:, None])[:, 0]
