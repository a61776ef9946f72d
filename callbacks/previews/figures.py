"""Two small figures over the chunks of a rollout, drawn with PIL so that a preview needs no plotting library."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw

from adastate.media.strip import AMBER, DIM, FAINT, GROUND, INK, TEAL, font, legible

COLOURS = (TEAL, AMBER, (122, 162, 247), (240, 128, 128), (187, 154, 247))
SIZE = (640, 300)
SHARP = 2
"""Drawn at so many times the size and shrunk, which smooths the lines."""

Series = Mapping[str, Sequence[float]]


@dataclass(frozen=True)
class _Axes:
    """Maps data to the pixels of the enlarged canvas."""

    box: tuple[int, int, int, int]
    last: int  # chunk at the right edge
    low: float
    high: float

    def x(self, chunk: float) -> float:
        left, _, right, _ = self.box
        return left + (right - left) * chunk / max(self.last, 1)

    def y(self, value: float) -> float:
        _, top, _, bottom = self.box
        return bottom - (bottom - top) * (value - self.low) / (self.high - self.low)


def lines(series: Series, title: str, first: int = 0, horizon: int | None = None) -> Image.Image:
    """One line a series; value i belongs to chunk `first` + i, and what is not finite leaves a hole."""
    finite = [v for values in series.values() for v in values if math.isfinite(v)]
    image, axes = _canvas(title, series, first, min([0.0, *finite]), max([1.0, *finite]), horizon)
    draw = ImageDraw.Draw(image)
    for colour, values in zip(COLOURS, series.values(), strict=False):
        for run in _finite_runs(values):
            points = [(axes.x(first + i), axes.y(v)) for i, v in run]
            draw.line(points, fill=colour, width=2 * SHARP, joint="curve")
            for x, y in points[-1:] if len(points) > 1 else points:
                draw.ellipse((x - 3 * SHARP, y - 3 * SHARP, x + 3 * SHARP, y + 3 * SHARP), fill=colour)
    return image.resize(SIZE, Image.Resampling.LANCZOS)


def areas(shares: Series, title: str, horizon: int | None = None) -> Image.Image:
    """Shares of a whole, stacked from the bottom up; each chunk's are divided by their sum."""
    image, axes = _canvas(title, shares, 0, 0.0, 1.0, horizon)
    draw = ImageDraw.Draw(image)
    whole = [sum(at) or 1.0 for at in zip(*shares.values(), strict=True)]
    if len(whole) == 1:  # a single chunk has no width: a bar over all
        shares, whole = {k: [*v, *v] for k, v in shares.items()}, whole * 2
        axes = _Axes(axes.box, 1, 0.0, 1.0)
    floor = [0.0] * len(whole)
    for colour, values in zip(COLOURS, shares.values(), strict=False):
        roof = [f + v / w for f, v, w in zip(floor, values, whole, strict=True)]
        upper = [(axes.x(i), axes.y(v)) for i, v in enumerate(roof)]
        lower = [(axes.x(i), axes.y(v)) for i, v in enumerate(floor)]
        draw.polygon(upper + lower[::-1], fill=colour)
        draw.line(upper, fill=GROUND, width=SHARP)
        floor = roof
    return image.resize(SIZE, Image.Resampling.LANCZOS)


def _finite_runs(values: Sequence[float]) -> Iterator[list[tuple[int, float]]]:
    run: list[tuple[int, float]] = []
    for i, v in enumerate(values):
        if math.isfinite(v):
            run.append((i, v))
        elif run:
            yield run
            run = []
    if run:
        yield run


def _canvas(
    title: str, series: Series, first: int, low: float, high: float, horizon: int | None
) -> tuple[Image.Image, _Axes]:
    """Ground, title, legend, grid and labels."""
    width, height = SIZE[0] * SHARP, SIZE[1] * SHARP
    image = Image.new("RGB", (width, height), GROUND)
    draw = ImageDraw.Draw(image)
    step = _tick((high - low) / 4)
    low, high = math.floor(low / step + 1e-9) * step, math.ceil(high / step - 1e-9) * step
    last = first + max((len(v) for v in series.values()), default=1) - 1
    axes = _Axes((48 * SHARP, 52 * SHARP, width - 20 * SHARP, height - 42 * SHARP), last, low, high)
    left, _, right, bottom = axes.box
    small, plain = font(11 * SHARP), font(14 * SHARP)

    draw.text((left, 12 * SHARP), legible(title), INK, plain)
    x = float(right)
    for name, colour in reversed(list(zip(series, COLOURS, strict=False))):
        draw.text((x, 43 * SHARP), legible(name), colour, small, anchor="rs")
        x -= small.getlength(legible(name)) + 14 * SHARP
    digits = max(0, -math.floor(math.log10(step)))
    for i in range(round((high - low) / step) + 1):
        y = axes.y(low + i * step)
        draw.line((left, y, right, y), fill=FAINT, width=SHARP)
        draw.text((left - 8 * SHARP, y), f"{low + i * step:.{digits}f}", DIM, small, "rm")
    every = max(1, round(_tick(max(last, 1) / 8)))
    for chunk in range(0, last + 1, every):
        draw.text((axes.x(chunk), bottom + 6 * SHARP), str(chunk), DIM, small, anchor="mt")
    draw.text((right, bottom + 22 * SHARP), "chunk", DIM, small, anchor="rt")
    for chunk in range(horizon, last + 1, horizon) if horizon else ():
        draw.line((axes.x(chunk), bottom, axes.x(chunk), bottom + 5 * SHARP), fill=AMBER, width=2 * SHARP)
    return image, axes


def _tick(rough: float) -> float:
    """The smallest of 1, 2, 5 times a power of ten that is at least `rough`."""
    power = 10.0 ** math.floor(math.log10(rough))
    return next(m * power for m in (1, 2, 5, 10) if m * power >= rough * (1 - 1e-9))
