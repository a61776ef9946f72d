"""Two small figures over the chunks of a rollout. Without pyplot: its state is global, and previews run in a thread."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from PIL import Image

from adastate.media.strip import AMBER, DIM, FAINT, GROUND, INK, TEAL

COLOURS = (TEAL, AMBER, "#7aa2f7", "#f08080", "#bb9af7")
SIZE = (640, 300)
DPI = 100

Series = Mapping[str, Sequence[float]]


def line_figure(series: Series, title: str, first: int = 0, horizon: int | None = None) -> Image.Image:
    """One line per series; value i belongs to chunk `first` + i, and values that are not finite leave a gap."""
    ax = _axes(title)
    for colour, (name, values) in zip(COLOURS, series.items(), strict=False):
        finite = np.where(np.isfinite(values), values, np.nan)
        ax.plot(range(first, first + len(values)), finite, ".-", color=colour, label=name, clip_on=False)
    last = first + max(map(len, series.values()), default=1) - 1
    ax.update_datalim([(0, 0), (last, 1)])
    ax.autoscale()
    return _image(ax, last, horizon)


def areas(shares: Series, title: str, horizon: int | None = None) -> Image.Image:
    """Shares stacked from the bottom up, normalised to sum to 1 in each chunk."""
    parts = np.array(list(shares.values()), dtype=float)
    whole = parts.sum(0)
    parts = parts / np.where(whole == 0, 1, whole)
    if parts.shape[1] == 1:  # a single chunk has no width: draw it as a bar
        parts = parts.repeat(2, 1)
    ax = _axes(title)
    ax.stackplot(range(parts.shape[1]), parts, colors=COLOURS, labels=list(shares), edgecolor=GROUND, linewidth=0.5)
    ax.set_ylim(0, 1)
    return _image(ax, parts.shape[1] - 1, horizon)


def _axes(title: str) -> Axes:
    """Dark axes with grid and title, of the same size in all figures, so that a chunk keeps its place."""
    figure = Figure(figsize=(SIZE[0] / DPI, SIZE[1] / DPI), dpi=DPI, facecolor=GROUND)
    ax = figure.add_axes((48 / 640, 42 / 300, 572 / 640, 206 / 300), facecolor=GROUND)
    ax.set_title(title, loc="left", x=0, y=1.12, color=INK, fontsize=10)
    ax.margins(0)
    ax.grid(axis="y", color=FAINT)
    ax.tick_params(length=0, labelsize=8, labelcolor=DIM)
    ax.tick_params(axis="x", pad=7)
    ax.set_axisbelow(True)
    ax.spines[:].set_visible(False)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.set_xlabel("chunk", loc="right", color=DIM, fontsize=8, labelpad=0)
    return ax


def _image(ax: Axes, last: int, horizon: int | None) -> Image.Image:
    """Adds the legend and a mark at every multiple of the training horizon, and renders the image."""
    for chunk in range(horizon, last + 1, horizon) if horizon else ():
        ax.axvline(chunk, -0.03, 0, color=AMBER, linewidth=2, clip_on=False)
    ax.legend(
        loc="lower right",
        bbox_to_anchor=(1.01, 0.98),
        borderaxespad=0,
        ncols=len(COLOURS),
        frameon=False,
        fontsize=8,
        labelcolor="linecolor",
        handlelength=0,
    )
    canvas = FigureCanvasAgg(ax.get_figure(root=True))
    canvas.draw()
    return Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")
