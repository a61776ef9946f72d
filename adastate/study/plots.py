"""The report's figures, readable in black and white: markers and dashes distinguish the arms without their colours."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import matplotlib

matplotlib.use("Agg")
import numpy as np
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from adastate.metrics import Interval
from adastate.study.attention_by_place import AttentionShares
from adastate.study.results import REAL, Measured, Results

# Okabe and Ito's colours, distinguishable for the colour-blind; neighbours differ in brightness.
COLOURS = ("#000000", "#D55E00", "#56B4E9", "#009E73", "#CC79A7", "#E69F00", "#0072B2", "#999999")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
DASHES: tuple[Any, ...] = ("-", (0, (6, 2)), (0, (2, 1.5)), (0, (6, 2, 1.5, 2)), (0, (1, 1)), (0, (8, 2, 1, 2, 1, 2)))
plt.rcParams.update(
    {
        "font.size": 9,
        "axes.titlesize": 9,
        "axes.titlelocation": "left",
        "legend.fontsize": 8,
        "legend.frameon": False,
        "lines.markersize": 4,
        "lines.linewidth": 1.4,
        "errorbar.capsize": 2,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "grid.color": "#dddddd",
        "grid.linewidth": 0.6,
        "axes.axisbelow": True,
        "svg.fonttype": "path",
        "svg.hashsalt": "adastate",
        "figure.constrained_layout.use": True,
    }
)


def style(i: int) -> dict[str, Any]:
    """Colour, marker and dashes of the i-th arm."""
    cycles = {"color": COLOURS, "marker": MARKERS, "linestyle": DASHES}
    return {key: cycle[i % len(cycle)] for key, cycle in cycles.items()}


def plot_over_horizons(results: Results, arms: Sequence[str], measures: Sequence[str]) -> Figure:
    """Each measure against the training horizon, one line per arm, real flights dashed in grey."""
    columns = 3
    rows = math.ceil(len(measures) / columns)
    figure, grid = plt.subplots(rows, columns, figsize=(10, 2.5 * rows), squeeze=False)
    for ax in grid.flat[len(measures) :]:
        ax.set_visible(False)
    x = np.arange(1, results.horizons[-1] + 1)
    for ax, measure in zip(grid.flat, measures, strict=False):
        real = {"color": "#777777", "linewidth": 1, "linestyle": "--"}
        for arm, look in [(REAL, real), *((arm, style(i)) for i, arm in enumerate(arms))]:
            middle, low, high = _band(results, measure, arm)
            ax.plot(x, middle, label=arm, markevery=max(1, len(x) // 7), **look)
            ax.fill_between(x, low, high, color=look["color"], alpha=0.12, linewidth=0)
        for h in results.horizons[1:-1]:
            ax.axvline(h, color="#888888", linewidth=0.8, linestyle=":")
        ax.set_title(measure.replace("_", " "))
    for ax in grid[-1]:
        ax.set_xlabel("training horizons")
    _legend(figure, grid.flat[0])
    return figure


def _band(results: Results, measure: str, arm: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean and interval in every horizon."""
    found = [results.mean(measure, arm, at) for at in range(1, results.horizons[-1] + 1)]
    middle, low, high = np.array([(i.value, i.low, i.high) for i in found]).T
    return middle, low, high


def dynamics_against_drift(results: Results, arms: Sequence[str], at: int) -> Figure:
    """One point per arm: motion against drift from real video, with intervals over seeds."""
    axes = ("drift: log(1 + Frechet distance from real flights)", "dynamics: forward displacement over the prompted")
    return _points(_at(results, arms, ("frechet", "forward"), at), axes, f"in horizon {at}")


def following_against_forgetting(results: Results, arms: Sequence[str], at: int) -> Figure:
    """One point per arm: how fast the ground turns against how far the livery has drifted, with intervals."""
    axes = ("forgetting: turns of the livery from its first horizon", "following: turning over that of the true flight")
    return _points(_at(results, arms, ("livery", "turning"), at), axes, f"in horizon {at}")


def remembering(results: Results, arms: Sequence[str]) -> Figure:
    """One point per arm: how far the ground has left the first view against recall after fog, with intervals."""
    axes = (
        "recall: turns of the hue after fog from the one due",
        "leaving: turns of the hue from the first horizon's",
    )
    points = [(arm, results.overall("recall", arm), results.overall("from_start", arm)) for arm in [*arms, REAL]]
    return _points(points, axes, "over all horizons")


Point = tuple[str, Interval, Interval]
"""An arm's name, x and y."""


def _at(results: Results, arms: Sequence[str], measures: tuple[str, str], at: int) -> list[Point]:
    x, y = measures
    return [(arm, results.mean(x, arm, at), results.mean(y, arm, at)) for arm in [*arms, REAL]]


def _points(points: Sequence[Point], axes: tuple[str, str], title: str) -> Figure:
    figure, ax = plt.subplots(figsize=(5.6, 4))
    for i, (arm, x, y) in enumerate(points):
        look = {"color": "#777777", "marker": "*"} if arm == REAL else style(i)
        look |= {"linestyle": "none", "markersize": 8, "label": arm}
        ax.errorbar(x.value, y.value, xerr=_around(x), yerr=_around(y), **look)
    ax.set(xlabel=axes[0], ylabel=axes[1], title=title)
    ax.legend()
    return figure


def _around(i: Interval) -> np.ndarray:
    """Lengths of the error bar below and above the value, `[2, 1]`; zero if the interval is unbounded."""
    around = np.array([[i.value - i.low], [i.high - i.value]])
    return np.where(np.isfinite(around), around, 0).clip(min=0)


def differences(
    results: Results, pairs: Sequence[tuple[str, str]], measures: Sequence[str], stretches: Sequence[int]
) -> Figure:
    """Paired differences with intervals over seeds: one panel per measure, one row per pair (arm, reference arm)."""
    figure, grid = plt.subplots(
        1, len(measures), figsize=(2.3 * len(measures) + 1.2, 0.42 * len(pairs) + 1.3), squeeze=False, sharey=True
    )
    for ax, measure in zip(grid[0], measures, strict=True):
        for k, at in enumerate(stretches):
            for row, (arm, other) in enumerate(pairs):
                d = results.between(measure, arm, other, at)
                height = row + 0.26 * (k - (len(stretches) - 1) / 2)
                ax.errorbar(
                    d.value,
                    height,
                    xerr=_around(d),
                    color=COLOURS[(0, 1, 6)[k % 3]],
                    marker=MARKERS[k],
                    linestyle="none",
                    label=f"{at}x" if row == 0 else None,
                )
        ax.axvline(0, color="#444444", linewidth=0.8)
        ax.set_title(measure.replace("_", " "))
    grid[0, 0].set_yticks(range(len(pairs)), [f"{a} - {b}" for a, b in pairs])
    grid[0, 0].set_ylim(len(pairs) - 0.5, -0.5)
    _legend(figure, grid[0, 0])
    return figure


def attention_by_place(results: Results, arms: Sequence[str]) -> Figure:
    """Share of each position, one bar per arm, divided by the equal share of all positions."""
    known = [(arm, _trained(results, arm)) for arm in arms]
    shown = [(arm, a) for arm, a in known if a]
    figure, ax = plt.subplots(figsize=(7.5, 0.5 * len(shown) + 1.4))
    hatches = {"anchor": "///", "past": "", "state": "xx", "own": ".."}
    shades = {"anchor": "#555555", "past": "#bbbbbb", "state": "#888888", "own": "#eeeeee"}
    for row, (_, runs) in enumerate(shown):
        left = 0.0
        for i, place in enumerate(runs[0].places):
            share = float(np.mean([np.nanmean(a.shares[:, :-1, i]) for a in runs]))
            kind = place.split()[0]
            ax.barh(row, share, left=left, color=shades[kind], hatch=hatches[kind], edgecolor="black", linewidth=0.6)
            if share > 0.05:
                box = {"facecolor": "white", "edgecolor": "none", "pad": 0.8}
                ax.text(left + share / 2, row, f"{place}\n{share:.2f}", ha="center", va="center", fontsize=6, bbox=box)
            left += share
    ax.set_yticks(range(len(shown)), [arm for arm, _ in shown])
    ax.invert_yaxis()
    ax.set_xlim(0, 1)
    ax.set_xlabel("share of a chunk's attention, mean over layers and denoising levels")
    return figure


def attention_by_window(results: Results, arms: Sequence[str]) -> Figure:
    """Attention to the anchor over its equal share, by window size n; without an anchor, to the oldest frame."""
    figure, ax = plt.subplots(figsize=(5.6, 3.4))
    for i, arm in enumerate(arms):
        points: dict[int, list[float]] = {}
        for run in results.arms[arm].values():
            for a in run.attention:
                points.setdefault(a.past_frames, []).append(_first_excess(a))
        x = sorted(points)
        ax.plot(x, [np.nanmean(points[n]) for n in x], label=arm, **style(i))
    ax.axhline(1, color="#444444", linewidth=0.8)
    ax.set(xlabel="past frames in the window, n", ylabel="attention over equal share")
    ax.set_title("on the anchor; without one, on the oldest frame")
    ax.legend()
    return figure


def _first_excess(a: AttentionShares) -> float:
    if any(p.startswith("anchor") for p in a.places):
        return a.excess("anchor")
    oldest = next((i for i, p in enumerate(a.places) if p.startswith("past")), None)
    return float(np.nanmean(a.shares[:, :-1, oldest])) * len(a.places) if oldest is not None else math.nan


def attention_by_layer(results: Results, arms: Sequence[str]) -> Figure:
    """Share of the anchor by layer and level, one panel per arm; the clean pass is the last column."""
    shown = [(arm, runs) for arm in arms if (runs := _trained(results, arm)) and runs[0].kind("anchor") > 0]
    figure, grid = plt.subplots(1, max(1, len(shown)), figsize=(2.1 * max(1, len(shown)) + 0.8, 2.6), squeeze=False)
    for ax, (arm, runs) in zip(grid[0], shown, strict=False):
        mine = [i for i, p in enumerate(runs[0].places) if p.startswith("anchor")]
        share = np.mean([a.shares[..., mine].sum(-1) for a in runs], 0)
        ax.imshow(share, cmap="Greys", vmin=0, vmax=1, aspect="auto")
        for (layer, level), value in np.ndenumerate(share):
            if math.isfinite(value):
                ink = "white" if value > 0.5 else "black"
                ax.text(level, layer, f"{value:.2f}", ha="center", va="center", fontsize=6, color=ink)
        ax.set_xticks(range(share.shape[1]), [*map(str, range(1, share.shape[1])), "clean"], fontsize=7)
        ax.set_yticks(range(share.shape[0]))
        ax.set_title(arm, loc="center")
        ax.set_xlabel("level")
        ax.grid(False)
    grid[0, 0].set_ylabel("layer")
    return figure


def _trained(results: Results, arm: str) -> list[AttentionShares]:
    return [a for run in results.arms[arm].values() if (a := run.trained_attention) is not None]


def strips(results: Results, arms: Sequence[str], row: int = 0) -> Figure:
    """The same rollout under each arm: its first pictures, then the last ones of each stretch, states below."""
    shown: list[tuple[str, Measured]] = [(REAL, results.real)]
    shown += [(arm, results.arms[arm][min(results.arms[arm])]) for arm in arms]
    columns = ["start", *(f"{h}x" for h in results.horizons)]
    lines = [(name, m, "shown") for name, m in shown]
    for name, m in reversed(shown):
        if any(k.startswith("states/") for k in m.arrays):
            at = next(i for i, line in enumerate(lines) if line[0] == name)
            lines.insert(at + 1, (f"{name}, hidden", m, "states"))
    figure, grid = plt.subplots(
        len(lines), len(columns), figsize=(2.9 * len(columns), 0.5 * len(lines) + 0.3), squeeze=False
    )
    for (name, measured, kind), axes in zip(lines, grid, strict=True):
        for column, ax in zip(columns, axes, strict=True):
            ax.axis("off")
            key = f"{kind}/{column}"
            if key in measured.arrays and row < len(measured.arrays[key]):
                ax.imshow(_sheet(measured.arrays[key][row]), interpolation="nearest")
            if column == columns[0]:
                ax.text(-0.03, 0.5, name, transform=ax.transAxes, ha="right", va="center", fontsize=7)
    for column, ax in zip(columns, grid[0], strict=True):
        ax.set_title(column, loc="center")
    return figure


def _sheet(pictures: np.ndarray, most: int = 6) -> np.ndarray:
    """At most `most` of the pictures `[T, 3, h, w]` side by side, separated by white lines."""
    pick = np.linspace(0, len(pictures) - 1, min(most, len(pictures))).round().astype(int)
    padded = [np.pad(pictures[i].transpose(1, 2, 0), ((0, 0), (0, 2), (0, 0)), constant_values=255) for i in pick]
    return np.concatenate(padded, 1)


def _legend(figure: Figure, ax: Axes) -> None:
    handles, labels = ax.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=min(8, len(labels)))
