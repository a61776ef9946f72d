"""Memory of what left the view, by system: metrics with intervals over rollouts, as table, JSON and pictures."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import matplotlib
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from adastate.config.systems import System
from adastate.evaluation.look_away import AFTER, GIVEN, Outing, outings, rendered, standing_still, stream_outings
from adastate.metrics import Interval, bootstrap
from adastate.metrics.flight_landmarks import Spotted, spotted
from adastate.metrics.flight_return import gone_on, seen_again
from adastate.runtime import atomic
from adastate.training.student import Student
from datamodules.worlds.flight.camera_path import PICTURES
from datamodules.worlds.flight.contact_sheet import sheet

matplotlib.use("Agg")
from matplotlib import pyplot as plt

LEAST_ROLLOUTS = 64
"""Default number of rollouts per system and time out of view."""

STILL, RENDER = "last picture kept", "render"
"""The baseline and the ceiling."""

SHOWN_OUTINGS = 3


@dataclass(frozen=True)
class MemoryRow:
    """Memory of one system after one time out of view; 95% intervals over its rollouts.

    Attributes:
        away: latent frames for which the keys look aside.
        seconds: mean time that the landmark is out of view.
        found: share of the pictures after the return in which a landmark is present.
        bearing: its error in degrees; half the view (35) if missing.
        colour: share of wrong colours; wrong if missing.
        gone_on: for a drifting balloon: the share of its path that it has moved; None for landmarks that do not move.
    """

    system: str
    away: int
    seconds: float
    rollouts: int
    found: Interval
    bearing: Interval
    colour: Interval
    gone_on: Interval | None = None


def memory_row(
    system: str, away: int, tasks: Sequence[Outing], made: Spotted, true: Spotted, fps: float, drifting: bool
) -> MemoryRow:
    """Metrics of one system after one time out of view."""
    again, kept = seen_again(made, true), torch.stack([task.kept for task in tasks])
    return MemoryRow(
        system,
        away,
        sum(task.hidden for task in tasks) / len(tasks) / fps,
        len(tasks),
        bootstrap(again.found),
        bootstrap(torch.rad2deg(again.bearing)),
        bootstrap(again.colour),
        bootstrap(gone_on(made, true, kept)) if drifting else None,
    )


def compare_memories(
    student: Student,
    systems: Sequence[System],
    away: Sequence[int],
    count: int,
    seed: int,
    out: Path,
    drifting: bool = False,
) -> list[MemoryRow]:
    """Runs every system after every time out of view, with baseline and ceiling, and writes the results.

    Args:
        away: latent frames.
        count: rollouts per system and time, with the same flights for all systems.
        out: .json file of the metrics; pictures are written beside it: curves (.png) and examples (_examples.png).
    """
    if not student.net.size.actions:
        raise ValueError("this network cannot be steered, so it cannot look away: its size has no `actions`")
    found, fps = list[MemoryRow](), student.codec.fps
    shown: list[Tensor] = []
    labels: list[str] = []
    for frames in away:
        tasks = outings(seed, count, frames, drifting)
        true = spotted(torch.stack([task.true for task in tasks]))
        made = {STILL: standing_still(student, tasks), RENDER: rendered(student, tasks)}
        made |= {system.name: stream_outings(student, tasks, system.spec, seed) for system in systems}
        for name, video in made.items():
            row = memory_row(name, frames, tasks, spotted(video), true, fps, drifting)
            found.append(row)
        rows, told = return_examples(tasks, made)
        shown, labels = shown + rows, labels + told
    protocol = {"rollouts": count, "away": list(away), "seed": seed, "drifting": drifting, "given_frames": GIVEN}
    atomic.write_json(out, {"protocol": protocol, "rows": [asdict(row) for row in found]})
    out.parent.mkdir(parents=True, exist_ok=True)
    draw_return_errors(found, drifting, out.with_suffix(".png"))
    sheet(shown, labels, up=2).save(out.with_name(f"{out.stem}_examples.png"))
    return found


def return_examples(tasks: Sequence[Outing], made: Mapping[str, Tensor]) -> tuple[list[Tensor], list[str]]:
    """Rows of pictures, a few given ones and those after the return, and their labels."""
    rows, labels = [], []
    for i, task in enumerate(tasks[:SHOWN_OUTINGS]):
        before = task.given[::PICTURES]
        for name, video in {"exact": torch.stack([t.true for t in tasks[:SHOWN_OUTINGS]]), **made}.items():
            rows.append(torch.cat([before, video[i, : AFTER * PICTURES : 2]]))
            labels.append(f"{name}    {task.look}, {task.hidden} pictures out of view    {task.prompt}")
    return rows, labels


def draw_return_errors(found: Sequence[MemoryRow], drifting: bool, out: Path) -> None:
    """Errors against the time out of view, one line per system, with intervals."""
    panels = {"bearing": "error of bearing (degrees)", "colour": "wrong colour (share)"}
    panels |= {"gone_on": "share of its way gone on"} if drifting else {"found": "found again (share)"}
    figure, axes = plt.subplots(1, len(panels), figsize=(3.6 * len(panels), 3.2), constrained_layout=True)
    names = list(dict.fromkeys(row.system for row in found))
    for axis, (field, title) in zip(axes, panels.items(), strict=True):
        for i, name in enumerate(names):
            mine = [row for row in found if row.system == name]
            values: list[Interval] = [getattr(row, field) for row in mine]
            bars = [[v.value - v.low for v in values], [v.high - v.value for v in values]]
            plain = {STILL: {"color": "0.6", "linestyle": "--"}, RENDER: {"color": "0.2", "linestyle": ":"}}
            style: dict[str, Any] = plain.get(name, {"color": f"C{i}", "marker": "osD^vP*X"[i % 8]})
            axis.errorbar(
                [row.seconds for row in mine], [v.value for v in values], bars, capsize=2, label=name, **style
            )
        axis.set_title(title, fontsize=9, loc="left")
        axis.set_xlabel("seconds out of view")
        axis.set_ylim(bottom=min(0.0, axis.get_ylim()[0]) if field == "gone_on" else 0.0)
    axes[0].legend(fontsize=7, frameon=False)
    figure.savefig(out, dpi=110)
    plt.close(figure)


def show_memories(found: Sequence[MemoryRow], console: Console) -> None:
    """Prints one line per system and time out of view."""
    table = Table("system", "out of view (s)", "found again", "bearing (deg)", "colour wrong", "gone on")
    for row in found:
        told = [_told(row.found), _told(row.bearing, 1), _told(row.colour), _told(row.gone_on)]
        table.add_row(row.system, f"{row.seconds:.1f}", *told)
    console.print(table)


def _told(value: Interval | None, digits: int = 2) -> str:
    if value is None or math.isnan(value.value):
        return ""
    return f"{value.value:.{digits}f} [{value.low:.{digits}f}, {value.high:.{digits}f}]"
