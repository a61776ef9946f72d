"""An animated WebP of streams: each video beside its hidden state, what was asked for below, in a file of limited size.

Pages and READMEs show it without a player, and it is a small fraction of a GIF.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from jaxtyping import UInt8
from PIL import Image, ImageDraw
from torch import Tensor

from adastate.media.strip import DIM, GROUND, INK, TEAL, font, shorten
from adastate.media.video import held_state
from adastate.runtime import atomic

MOST_BYTES = 3_000_000
"""Of a file, by default: what a page of GitHub's shows without delay."""

QUALITIES = (90, 80, 70, 60, 50, 40, 30, 20)
"""Of WebP, tried from the best on until the file is small enough."""

SHORTEST, EDGE, LINE = 192, 8, 20
"""Shorter side of a picture, below which it is enlarged smoothly; pixels about pictures; pixels of a line of text."""


@dataclass(frozen=True)
class AnimatedStream:
    """A stream to be shown, all of it in bytes.

    Attributes:
        chunks: pictures `[T, 3, h, w]` of each chunk.
        states: decoded state of each chunk `[T', 3, h, w]`; None where there was none.
        prompt: what was asked for.
        steered: the keys held in each chunk, empty for none; or nothing for a stream that cannot be steered.
    """

    chunks: Sequence[UInt8[Tensor, "T 3 h w"]]
    states: Sequence[UInt8[Tensor, "S 3 h w"] | None]
    prompt: str
    steered: Sequence[str] = field(default=())


def animation(streams: Sequence[AnimatedStream], fps: float, columns: int = 1) -> list[Image.Image]:
    """The pictures of an animation: all streams at a time, in so many columns, each beside its hidden state."""
    if not streams or not streams[0].chunks:
        raise ValueError("no pictures to animate: give one stream or more, of one chunk or more")
    cells = [_cells(stream, fps) for stream in streams]
    length, (wide, tall) = min(map(len, cells)), cells[0][0].size
    frames = []
    for i in range(length):
        whole = Image.new("RGB", (wide * min(columns, len(cells)), tall * -(-len(cells) // columns)), GROUND)
        for n, cell in enumerate(cells):
            whole.paste(cell[i], (wide * (n % columns), tall * (n // columns)))
        frames.append(whole)
    return frames


def save_webp(frames: Sequence[Image.Image], fps: float, path: Path, most: int = MOST_BYTES) -> int:
    """Writes an endless animation at the best quality at which it has at most `most` bytes.

    Returns:
        The quality, 20 to 90; 0 if it is larger at the lowest one, and nothing is written.
    """
    for quality in QUALITIES:
        out = io.BytesIO()
        frames[0].save(
            out, "WEBP", save_all=True, append_images=frames[1:], duration=round(1000 / fps), loop=0, quality=quality,
            method=4,
        )  # fmt: skip
        if out.tell() <= most:
            path.parent.mkdir(parents=True, exist_ok=True)
            with atomic.replacing(path) as scratch:
                scratch.write_bytes(out.getvalue())
            return quality
    return 0


def _cells(stream: AnimatedStream, fps: float) -> list[Image.Image]:
    """One stream: video left, state right, below them the prompt, the keys and the second."""
    height, width = stream.chunks[0].shape[-2:]
    up = max(1, -(-SHORTEST // min(height, width)))
    size = (width * up, height * up)
    with_states = any(state is not None for state in stream.states)
    wide = EDGE * (3 if with_states else 2) + size[0] * (2 if with_states else 1)
    cells: list[Image.Image] = []
    for number, (video, state) in enumerate(zip(stream.chunks, stream.states, strict=True)):
        hidden = None if state is None else held_state(state, len(video))
        keys = stream.steered[number] if stream.steered else ""
        for i, picture in enumerate(video):
            cell = Image.new("RGB", (wide, EDGE + size[1] + 2 * LINE + EDGE), GROUND)
            cell.paste(_enlarged(picture, size), (EDGE, EDGE))
            pen, line = ImageDraw.Draw(cell), EDGE + size[1] + 3
            if hidden is not None:
                cell.paste(_enlarged(hidden[i], size), (2 * EDGE + size[0], EDGE))
            if with_states:
                pen.text((2 * EDGE + size[0], line + LINE), "hidden state", TEAL, font(12))
            second = f"{len(cells) / fps:.1f} s" + (f"   keys {' '.join(keys)}" if keys.strip("-") else "")
            pen.text((EDGE, line), shorten(stream.prompt, 12, wide - 2 * EDGE), INK, font(12))
            pen.text((EDGE, line + LINE), second, DIM, font(12))
            cells.append(cell)
    return cells


def _enlarged(picture: Tensor, size: tuple[int, int]) -> Image.Image:
    return Image.fromarray(picture.permute(1, 2, 0).numpy()).resize(size, Image.Resampling.BICUBIC)
