"""Metrics by stretch of video, and their display."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table

Figures = dict[str, float]

SHARES = (
    "scene", "heading", "speed", "palette", "turn_sign", "tilt_sign", "tilt_within_3_degrees", "time", "weather",
    "biome",
)  # fmt: skip
"""Measures that are shares of rollouts, shown in percent."""


@dataclass(frozen=True)
class MetricsRow:
    """Metrics of one stretch of the video of `name`."""

    name: str
    stretch: str
    figures: Figures

    @property
    def title(self) -> str:
        return f"{self.name}, {self.stretch}"


def measures_of(rows: Iterable[MetricsRow]) -> list[str]:
    """All measures that any row has."""
    return list(dict.fromkeys(m for row in rows for m in row.figures))


def show_metrics(found: list[MetricsRow], console: Console) -> None:
    """One column per stretch of video, one line per measure."""
    table = Table("", *(f"{row.name}\n{row.stretch}" for row in found))
    for measure in measures_of(found):
        table.add_row(measure.replace("_", " "), *(spelt(measure, row.figures.get(measure)) for row in found))
    console.print(table)


def spelt(column: str, value: float | None) -> str:
    """A metric for display: shares in percent, empty if not measured."""
    if value is None:
        return ""
    return f"{value:.0%}" if column in SHARES else f"{value:.3f}"
