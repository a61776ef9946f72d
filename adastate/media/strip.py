"""Pictures to files that people look at: mp4 video, animated GIF, strips of a rollout over time.

Pictures are `[..., 3, h, w]`, floats in [-1, 1] or bytes. A rollout is a list of chunks, each the pictures
`[B, T, 3, h, w]` that it added to the stream, and beside it a list of equal length with the decoded hidden states.
"""

from __future__ import annotations

import math
from bisect import bisect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from pathlib import Path

import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from adastate.media.video import _fitted, _shown

GROUND = "#131417"
FAINT = "#34363c"
DIM = "#9497a0"
INK = "#e9eaee"
AMBER = "#ffb74d"
TEAL = "#5ecbbf"
PINK = "#f48fb1"

CHUNK_GAP, PICTURE_GAP, MARGIN, GUTTER = 10, 2, 20, 54


@dataclass(frozen=True)
class _Group:
    """The columns of one chunk."""

    chunk: int
    left: int  # pixels from the edge of the sheet
    columns: int


def strip(
    chunks: Sequence[Tensor],
    states: Sequence[Tensor | None] | None = None,
    *,
    prompts: Sequence[str] = (),
    fps: float = 8,
    title: str = "",
    horizon: int | None = None,
    steered: Sequence[str] = (),
    switches: Mapping[int, Sequence[str]] | None = None,
    cell_height: int = 96,
    max_width: int = 2240,
) -> Image.Image:
    """A rollout on one sheet: time to the right, a row per prompt, the hidden states under their chunks.

    As many pictures of each chunk are shown as the width allows, from its first on; if not even one fits, chunks
    evenly spaced from the first to the last. The state of a chunk stands under the chunk's first picture; further
    pictures of the same state follow under the chunk's further ones.

    Args:
        chunks: pictures `[B, T, 3, h, w]` that each chunk added.
        states: decoded state `[B, T', 3, h, w]` of each chunk; None where there was none.
        prompts: text above the rows, one each.
        fps: for the seconds on the time axis.
        horizon: chunks of a training rollout; a line marks every multiple of it.
        steered: how each chunk was steered, in a word, written above its pictures.
        switches: by the chunk with which it begins, the new prompt of each row; a line marks it, and the text of a
            prompt runs to the next line.
        cell_height: largest height of a picture in pixels.
        max_width: of the sheet in pixels.
    """
    _check_counts(chunks, states, prompts, steered)
    rows, (h, w) = chunks[0].shape[0], chunks[0].shape[-2:]
    space = max_width - 2 * MARGIN - GUTTER
    cell_height = min(cell_height, max(1, space * h // w))
    cell = _fitted(h, w, cell_height)
    groups = _columns(len(chunks), max(c.shape[1] for c in chunks), cell[0], space)
    with_states = states is not None and any(s is not None for s in states)

    row_height = (24 if prompts else 0) + cell[1] + (cell[1] + 4 if with_states else 0)
    head = (32 if title else 0) + 44 + (16 if steered else 0)
    right = groups[-1].left + groups[-1].columns * (cell[0] + PICTURE_GAP) - PICTURE_GAP + MARGIN
    least = MARGIN * 2 + _text_width(title, 17) if title else 0
    width = min(max_width, max(right, least))
    sheet = Image.new("RGB", (width, MARGIN + head + rows * (row_height + 16) - 16 + MARGIN), GROUND)
    draw = ImageDraw.Draw(sheet)
    if title:
        draw.text((MARGIN, MARGIN - 4), shorten(title, 17, width - 2 * MARGIN), INK, font(17))

    left, top = MARGIN + GUTTER, MARGIN + head
    _time_axis(draw, groups, [c.shape[1] for c in chunks], top - (54 if steered else 38), cell[0], fps)
    marks = _horizon_marks(groups, horizon)
    _head(draw, groups, steered, marks, top, cell[0])
    turns = _switch_marks(groups, switches or {})
    for row in range(rows):
        if prompts:
            later = {x: texts[row] for x, texts in turns.items()}
            _prompts(draw, prompts[row], later, (left, top, width - MARGIN))
            top += 24
        for x, colour in [*((x, AMBER) for x in marks), *((x, PINK) for x in turns)]:
            draw.line((x, top, x, top + row_height - (24 if prompts else 0)), fill=colour, width=2)
        draw.text((MARGIN, top + cell[1] // 2), "video", DIM, font(12), anchor="lm")
        _place(sheet, groups, [c[row] for c in chunks], top, cell)
        top += cell[1] + 4
        if states is not None and with_states:
            draw.text((MARGIN, top + cell[1] // 2), "state", TEAL, font(12), anchor="lm")
            _place(sheet, groups, [None if s is None else s[row] for s in states], top, cell)
            top += cell[1] + 4
        top += 12
    return sheet


def _check_counts(
    chunks: Sequence[Tensor], states: Sequence[Tensor | None] | None, prompts: Sequence[str], steered: Sequence[str]
) -> None:
    if states is not None and len(states) != len(chunks):
        raise ValueError(f"{len(states)} states for {len(chunks)} chunks: give one for each, None where there is none")
    if steered and len(steered) != len(chunks):
        raise ValueError(f"{len(steered)} words on how {len(chunks)} chunks were steered: give one for each")
    if prompts and len(prompts) != chunks[0].shape[0]:
        raise ValueError(f"{len(prompts)} prompts for {chunks[0].shape[0]} rows: give one for each")


def _head(
    draw: ImageDraw.ImageDraw,
    groups: list[_Group],
    steered: Sequence[str],
    marks: Mapping[int, str],
    top: int,
    cell: int,
) -> None:
    """Above the rows: how each chunk was steered, and where training horizons end."""
    for group in groups if steered else ():
        wide = group.columns * (cell + PICTURE_GAP) - PICTURE_GAP
        draw.text((group.left, top - 22), shorten(steered[group.chunk], 12, wide), TEAL, font(12))
    for x, name in marks.items():
        draw.line((x, top - 40, x, top - 10), fill=AMBER, width=2)
        draw.text((x - 5, top - 36), name, AMBER, font(12), anchor="rt")


def _columns(chunks: int, pictures: int, cell: int, space: int) -> list[_Group]:
    def span(shown: int, columns: int) -> int:
        return shown * (columns * (cell + PICTURE_GAP) - PICTURE_GAP + CHUNK_GAP) - CHUNK_GAP

    fitting = [p for p in range(1, pictures + 1) if span(chunks, p) <= space]
    columns = fitting[-1] if fitting else 1
    shown = chunks if fitting else max(1, (space + CHUNK_GAP) // (cell + CHUNK_GAP))
    which = [round(i * (chunks - 1) / max(shown - 1, 1)) for i in range(shown)]
    step = span(1, columns) + CHUNK_GAP
    return [_Group(chunk, MARGIN + GUTTER + i * step, columns) for i, chunk in enumerate(which)]


def _place(
    sheet: Image.Image, groups: list[_Group], clips: Sequence[Tensor | None], top: int, cell: tuple[int, int]
) -> None:
    for group in groups:
        clip = clips[group.chunk]
        if clip is None:
            box = (group.left, top, group.left + cell[0] - 1, top + cell[1] - 1)
            ImageDraw.Draw(sheet).rectangle(box, outline=FAINT)
            continue
        shown = min(group.columns, clip.shape[0])
        for i in range(shown):
            image = _shown(clip[i * clip.shape[0] // shown], cell[1])
            sheet.paste(image, (group.left + i * (cell[0] + PICTURE_GAP), top))


def _time_axis(
    draw: ImageDraw.ImageDraw, groups: list[_Group], pictures: list[int], top: int, cell: int, fps: float
) -> None:
    """Chunk numbers, and the second of every picture if there is room for it."""
    starts = np.cumsum([0, *pictures])
    for group in groups:
        own = pictures[group.chunk]
        shown = min(group.columns, own)
        x, width = group.left, group.columns * (cell + PICTURE_GAP) - PICTURE_GAP
        if len(pictures) > 1:
            name = f"chunk {group.chunk}" if _text_width("chunk 000", 12) <= width else str(group.chunk)
            draw.text((x, top), name, INK, font(12))
        for i in range(shown):
            seconds = f"{(starts[group.chunk] + i * own // shown) / fps:.1f} s"
            if _text_width(seconds, 11) <= cell:
                draw.text((x + i * (cell + PICTURE_GAP), top + 15), seconds, DIM, font(11))


def _horizon_marks(groups: list[_Group], horizon: int | None) -> dict[int, str]:
    """Where a multiple of the training horizon ends, and which."""
    return {
        group.left - CHUNK_GAP // 2 - 1: f"{group.chunk // horizon}x"
        for before, group in pairwise(groups)
        if horizon and group.chunk // horizon > before.chunk // horizon
    }


def _switch_marks(groups: list[_Group], switches: Mapping[int, Sequence[str]]) -> dict[int, Sequence[str]]:
    """Where new prompts begin, and what they are: before the first chunk shown that has them."""
    latest = [max((at for at in switches if at <= group.chunk), default=0) for group in groups]
    return {
        group.left - 3: switches[at]
        for group, (before, at) in zip(groups[1:], pairwise(latest), strict=True)
        if at > before
    }


def _prompts(draw: ImageDraw.ImageDraw, first: str, later: Mapping[int, str], box: tuple[int, int, int]) -> None:
    """The prompts of a row over the pictures that they made, each cut where the next begins; box: left, top, right."""
    left, top, right = box
    starts = [left, *(x + 3 for x in later)]
    ends = [*(x - 6 for x in later), right]
    for text, x, end in zip((first, *later.values()), starts, ends, strict=True):
        draw.text((x, top), shorten(text, 14, end - x), INK if x == left else PINK, font(14))


@lru_cache
def font(size: int) -> ImageFont.FreeTypeFont:
    """DejaVu Sans, which matplotlib brings along: PIL's own font has English letters alone."""
    return ImageFont.truetype(Path(matplotlib.get_data_path()) / "fonts/ttf/DejaVuSans.ttf", size)


def _text_width(text: str, size: int) -> int:
    return math.ceil(font(size).getlength(text))


def shorten(text: str, size: int, width: int) -> str:
    """`text` in one line, cut to `width` pixels at font size `size`."""
    text = " ".join(text.split())
    if _text_width(text, size) <= width:
        return text
    fitting = bisect(range(1, len(text)), width, key=lambda letters: _text_width(text[:letters] + "...", size))
    return text[:fitting].rstrip() + "..."
