"""Memory, as the slope of a hue's change over the distance flown.

A passage is a stretch of a stream at whose two ends the ground's hue is visible. A stream that remembers has, at the
end, the initial hue plus the distance flown, counted in laps of the ring of hues: slope 1. One that holds its hue has
slope 0, and so has one that always advances by the same amount, and one whose hue is unrelated to the previous one,
with errors of a quarter of a turn. So the slope is reported with the error, and with the errors of these three
baselines on the same passages.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import torch
from jaxtyping import Float, Int
from torch import Tensor

from adastate.metrics.colour import apart

CHANCE = 0.25
"""Mean distance in turns between unrelated hues."""

LEAST = 8
"""Minimum number of passages for a slope."""


@dataclass(frozen=True)
class Passages:
    """Stretches of streams between two sights of the ground.

    Attributes:
        change: hue at the end minus hue at the beginning, in turns, modulo full turns.
        due: distance flown in between, in laps.
        row, at: index of the stream, and of the picture with which the passage ends.
    """

    change: Float[Tensor, " N"]
    due: Float[Tensor, " N"]
    row: Int[Tensor, " N"]
    at: Int[Tensor, " N"]

    def __len__(self) -> int:
        return len(self.due)

    def between(self, first: int, end: int) -> Passages:
        """Those that end with a picture in `first` to `end` - 1."""
        return self._where((self.at >= first) & (self.at < end))

    def _where(self, kept: Tensor) -> Passages:
        return Passages(self.change[kept], self.due[kept], self.row[kept], self.at[kept])


@dataclass(frozen=True)
class MemoryFigures:
    """Figures of passages; errors are mean distances in turns between the final hue and the one due.

    Attributes:
        slope: of the change over the distance; 1 remembers, 0 holds still or always advances by the same amount. nan
            below `LEAST` passages.
        error: of the stream.
        hold: error of keeping the initial hue.
        mean: error of always advancing by the mean distance.
        passages: their number.
    """

    slope: float
    error: float
    hold: float
    mean: float
    passages: int

    @property
    def relative(self) -> float:
        """Error over that of a constant hue: 0 is perfect, 1 no better than a hue that never changes."""
        return self.error / self.hold if self.hold else float("nan")


def hidden_passages(
    hues: Float[Tensor, "B T"], rate: Float[Tensor, " B"], least: int, most: int | None = None
) -> Passages:
    """Passages through hidden ground: from the last picture with a hue to the next one that has a hue again.

    Args:
        hues: in turns; nan where there is none.
        rate: expected turns per picture, for each stream.
        least, most: pictures without a hue in the shortest and longest passage that counts.
    """
    found: list[tuple[float, float, int, int]] = []
    for row, (line, pace) in enumerate(zip(hues, rate.tolist(), strict=True)):
        seen = (~line.isnan()).nonzero()[:, 0].tolist()
        found += [
            (float(line[after] - line[before]), pace * (after - before), row, after)
            for before, after in pairwise(seen)
            if least < after - before <= (most or line.numel()) + 1
        ]
    return _passages(found)


def open_passages(hues: Float[Tensor, "B T"], rate: Float[Tensor, " B"], gap: int) -> Passages:
    """Consecutive passages of `gap` pictures, where nothing hides the ground; those without a hue at either end are
    left out."""
    ends = torch.arange(gap, hues.shape[1], gap).tolist()
    found = [
        (float(hues[row, at] - hues[row, at - gap]), pace * gap, row, at)
        for row, pace in enumerate(rate.tolist())
        for at in ends
        if not (hues[row, at].isnan() or hues[row, at - gap].isnan())
    ]
    return _passages(found)


def _passages(found: list[tuple[float, float, int, int]]) -> Passages:
    change, due, row, at = zip(*found, strict=True) if found else ((), (), (), ())
    return Passages(
        torch.tensor(change, dtype=torch.float64),
        torch.tensor(due, dtype=torch.float64),
        torch.tensor(row, dtype=torch.long),
        torch.tensor(at, dtype=torch.long),
    )


def memory(passages: Passages) -> MemoryFigures:
    """The slope and the errors.

    A change is measured from the mean distance, the shorter way round, so that no memory gives a slope of 0 wherever
    the ring of hues is cut. This requires that distances differ by less than half a lap from their mean.

    Raises:
        ValueError: they differ by more.
    """
    change, due, count = passages.change, passages.due, len(passages)
    if not count:
        nan = float("nan")
        return MemoryFigures(nan, nan, nan, nan, 0)
    middle = due.mean()
    if (due - middle).abs().max() >= 0.5:
        raise ValueError(
            f"distances from {float(due.min()):.2f} to {float(due.max()):.2f} laps differ by half a lap or more from "
            "their mean, where a slope is ambiguous: measure shorter passages, or those of one length at a time"
        )
    away = due - middle
    spread = float(away.square().sum())
    beyond = (change - middle + 0.5) % 1.0 - 0.5
    slope = float((away * beyond).sum()) / spread if spread > 0 and count >= LEAST else float("nan")
    zero = torch.zeros_like(due)
    errors = (apart(change, due), apart(zero, due), apart(middle, due))
    error, hold, always = (float(e.mean()) for e in errors)
    return MemoryFigures(slope, error, hold, always, count)
