"""What was found in a source of weights, and what of it fits."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from rich.table import Table
from rich.text import Text

from adastate.weights.files import StoredTensor


@dataclass(frozen=True)
class Fit:
    """Names compared with those of a network: in both with one shape, in one only, of another shape."""

    matched: int = 0
    missing: tuple[str, ...] = ()
    unexpected: tuple[str, ...] = ()
    wrong: tuple[str, ...] = ()

    @property
    def whole(self) -> bool:
        return not (self.missing or self.unexpected or self.wrong)

    def __str__(self) -> str:
        return (
            f"{len(self.wrong)} of another shape ({'; '.join(self.wrong[:3])}), "
            f"{len(self.missing)} missing ({', '.join(self.missing[:3])}), "
            f"{len(self.unexpected)} unexpected ({', '.join(self.unexpected[:3])})"
        )


def compare(entries: Mapping[str, StoredTensor], expected: Mapping[str, tuple[int, ...]]) -> Fit:
    both = [name for name in expected if name in entries]
    wrong = [
        f"{name} {entries[name].shape} in the file, {expected[name]} here"
        for name in both
        if entries[name].shape != expected[name]
    ]
    missing, unexpected = sorted(expected.keys() - entries.keys()), sorted(entries.keys() - expected.keys())
    return Fit(len(both) - len(wrong), tuple(missing), tuple(unexpected), tuple(wrong))


@dataclass(frozen=True)
class LoadReport:
    """A source of weights.

    Attributes:
        source: file or folder.
        origin: what it was recognised as.
        key: which of its networks was taken; empty if it holds one under no name.
        prefix: what stood before the names and was stripped.
        beside: what else the source holds and was not looked at.
        stream: choices of the stream that the weights were trained with, where the file says.
        size: name in conf/sizes/, or "other"; geometry: fields of Size as far as known; heads_from: who says heads.
        dtypes: tensors of each dtype; parameters: of the network.
        fit: names compared with those of the network of this geometry.
        notes: what else one should know.
    """

    source: str
    origin: str
    key: str
    prefix: str
    beside: tuple[str, ...]
    stream: Mapping[str, Any]
    size: str = "unknown"
    geometry: Mapping[str, Any] = field(default_factory=dict)
    heads_from: str = ""
    dtypes: Mapping[str, int] = field(default_factory=dict)
    parameters: int = 0
    fit: Fit = Fit()
    notes: tuple[str, ...] = ()

    def line(self) -> str:
        """One line for the log of whoever loads it."""
        key = f" ({self.key})" if self.key else ""
        notes = "".join(f"; {note}" for note in self.notes)
        return f"weights: {self.source}: {self.origin}{key}, {self.size}, {self.fit.matched} tensors matched{notes}"

    def table(self) -> Table:
        """Two columns, for the terminal."""
        rows = {
            "source": self.source,
            "origin": self.origin,
            "network taken": self.key,
            "prefix stripped": self.prefix,
            "beside it": ", ".join(self.beside),
            "size": self.size,
            "geometry": ", ".join(f"{k} {v}" for k, v in self.geometry.items()),
            "heads": self.heads_from if self.geometry else "",
            "parameters": f"{self.parameters:,}" if self.parameters else "",
            "dtypes": ", ".join(f"{name} ({count})" for name, count in self.dtypes.items()),
            "matched": str(self.fit.matched) if self.geometry else "",
            "missing": _listed(self.fit.missing) if self.geometry or self.fit.missing else "",
            "unexpected": _listed(self.fit.unexpected) if self.geometry else "",
            "of another shape": _listed(self.fit.wrong) if self.geometry else "",
            "trained with": ", ".join(f"{k} {v}" for k, v in self.stream.items()),
        }
        table = Table.grid(padding=(0, 2))
        table.add_column(style="bold", no_wrap=True)
        table.add_column(overflow="fold")
        for name, value in rows.items():
            if value:
                table.add_row(name, Text(value))
        for note in self.notes:
            table.add_row("note", Text(note))
        return table


def _listed(names: Iterable[str], most: int = 5) -> str:
    every = list(names)
    if not every:
        return "0"
    more = f" and {len(every) - most} more" if len(every) > most else ""
    return f"{len(every)}: {', '.join(every[:most])}{more}"
