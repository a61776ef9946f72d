"""What the cache keeps when a chunk is written, as pure functions of cached frames."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from adastate.stream.kv_frames import HIDDEN, CachedFrames, Frames
from adastate.stream.spec import StreamSpec

MEMORIES = 2
"""Frames of a dual average beside its static ones: long and short."""


def update_anchor(
    spec: StreamSpec, anchor: CachedFrames | None, state: CachedFrames | None, grown: CachedFrames
) -> tuple[CachedFrames | None, CachedFrames]:
    """(anchor, window) after a commit.

    A frame stands in one place only: what becomes the anchor leaves the window. Averages take in what is evicted
    now, so the first pass of the next chunk sees them already.

    Args:
        state: what the clean pass wrote for the state queries, None where there were none.
        grown: the past with the new chunk appended, nothing evicted yet.
    """
    anchor, grown = _next_anchor(spec, anchor, state, grown)
    past = spec.past_frames
    if past is None or grown.count <= past:
        return anchor, grown
    if spec.anchor == "ema" and anchor is not None:
        for block in _blocks(grown.drop_last(past), spec.chunk_frames):
            anchor = _blend(anchor, _pooled(block, spec.pool, anchor.count), spec.decay[0])
    elif spec.anchor == "dual_ema" and anchor is not None:
        if anchor.count == spec.state_frames:  # the memories' places hold the oldest past frames until something leaves
            if grown.count <= past + MEMORIES:
                return anchor, grown
            memory = _pooled(grown.drop_first(MEMORIES).drop_last(past), spec.pool, 1)
            anchor = anchor.append(memory).append(memory)
        else:
            taken = _pooled(grown.drop_last(past), spec.pool, 1)
            static, long, short = anchor.first(spec.state_frames), anchor.last(2).first(1), anchor.last(1)
            anchor = static.append(_blend(long, taken, spec.decay[0])).append(_blend(short, taken, spec.decay[1]))
    return anchor, grown.last(past)


def _next_anchor(
    spec: StreamSpec, anchor: CachedFrames | None, state: CachedFrames | None, grown: CachedFrames
) -> tuple[CachedFrames | None, CachedFrames]:
    if spec.anchor == "none":
        return None, grown
    if state is not None:
        return _updated_state(spec.state_update_every, anchor, state), grown
    if spec.anchor == "state" and (anchor is not None or spec.state_init == "denoised"):
        return anchor, grown
    if anchor is None:
        return grown.first(spec.state_frames), grown.drop_first(spec.state_frames)
    # Where a block is shorter than the anchor, the following ones go on filling it.
    missing = max(0, spec.state_frames - anchor.count)
    return (anchor.append(grown.first(missing)), grown.drop_first(missing)) if missing else (anchor, grown)


def _updated_state(clocks: tuple[int, ...], old: CachedFrames | None, new: CachedFrames) -> CachedFrames:
    """The state after a chunk: frames whose clock does not strike keep their old keys and values."""
    if old is None or not clocks:
        return new
    chosen = [new if new.written[0] % clock == 0 else old for clock in clocks]
    kept = chosen[0].first(1)
    for i, frames in enumerate(chosen[1:], 1):
        kept = kept.append(frames.drop_first(i).first(1))
    return kept


def _blocks(evicted: CachedFrames, size: int) -> list[CachedFrames]:
    if evicted.count % size:
        raise ValueError(
            f"anchor 'ema' takes in whole chunks of {size} frames, but {evicted.count} leave the window: give first "
            "frames in whole chunks"
        )
    return [evicted.drop_first(i).first(size) for i in range(0, evicted.count, size)]


def _pooled(evicted: CachedFrames, pool: str, count: int) -> Frames:
    """`count` frames that stand for the evicted ones."""
    tokens = evicted.frame_tokens

    def pooled(x: Tensor) -> Tensor:
        if pool == "mean":
            return x.mean(1, keepdim=True).expand(-1, count * tokens, -1, -1)
        return x if evicted.count == count else x.unflatten(1, (evicted.count, tokens)).mean(1)

    return _each(evicted, pooled, count)


def _blend(old: CachedFrames, new: Frames, decay: float) -> Frames:
    """Moving average; `decay` is the weight of the old."""

    def blend(a: tuple[Tensor, ...], b: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return tuple(torch.lerp(y, x, decay) for x, y in zip(a, b, strict=True))

    return replace(new, keys=blend(old.keys, new.keys), values=blend(old.values, new.values))


def _each(frames: CachedFrames, change: Callable[[Tensor], Tensor], count: int) -> Frames:
    """Frames made of others: they stand for no picture, and for the last chunk that went into them."""
    return Frames(
        tuple(map(change, frames.keys)),
        tuple(map(change, frames.values)),
        (HIDDEN,) * count,
        frames.written[-1:] * count,
    )
