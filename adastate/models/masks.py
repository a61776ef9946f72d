"""Frame masks of the training forwards; streaming masks are built by the cache."""

from __future__ import annotations

from adastate.types import FrameMask


def blocks(frames: int, block: int, first: int | None = None) -> list[int]:
    """Block index of every frame; an independent first frame makes blocks of 1, 3, 3, ... (`first=1`)."""
    head = block if first is None else first
    if frames < head or (frames - head) % block:
        raise ValueError(f"{frames} frames do not divide into blocks of {block} after a first one of {head}")
    return [0 if f < head else 1 + (f - head) // block for f in range(frames)]


def block_causal(frames: int, block: int, window: int | None = None, first: int | None = None) -> FrameMask:
    """Each block sees itself and the frames before it; with `window`, the last `window` frames up to its own end."""
    index = blocks(frames, block, first)
    end = [max(j for j in range(frames) if index[j] == index[i]) + 1 for i in range(frames)]
    return tuple(
        tuple(j < end[i] and (window is None or j >= end[i] - window) for j in range(frames)) for i in range(frames)
    )


def teacher_forcing(frames: int, block: int, past: int | None = None, first: int | None = None) -> FrameMask:
    """Mask over [clean copy | noisy copy]: a noisy block sees the clean blocks before it and itself.

    `past` limits both copies to this many clean frames before the block, like a streaming window; None is the published
    form, which has no window here.
    """
    index = blocks(frames, block, first)
    start = [index.index(b) for b in index]

    def earlier(i: int, j: int) -> bool:
        return index[j] < index[i] and (past is None or j >= start[i] - past)

    every = range(frames)
    clean = [tuple(earlier(i, j) or index[j] == index[i] for j in every) + (False,) * frames for i in every]
    noisy = [tuple(earlier(i, j) for j in every) + tuple(index[j] == index[i] for j in every) for i in every]
    return tuple(clean + noisy)
