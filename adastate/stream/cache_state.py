"""Copies of a cache: one to go on with later, and one of plain data, for a checkpoint."""

from __future__ import annotations

from copy import copy
from dataclasses import replace
from typing import Any

from adastate.stream.cache import StateCache
from adastate.stream.kv_frames import TensorFrames
from adastate.stream.kv_slab import SlabFrames
from adastate.stream.spec import StreamSpec
from adastate.types import TokenSplit

PLAIN = ("origin", "frames", "chunks", "generated", "recent", "shared_noise", "cut")
"""What of a cache is a number, a tensor or nothing."""

FRAMES = ("anchor", "window", "last_places")
"""What of it is frames or nothing."""

HEADED = ("keys", "values")
"""What of frames has an axis of heads."""


def fork(cache: StateCache) -> StateCache:
    """A second cache with the same memory; either goes on without the other.

    Frames are never changed in place, and are shared; a Slab, which every pass writes into, is copied.
    """
    other = copy(cache)
    other._rotated, other.latest = {}, None
    if cache._slab is not None:
        other._slab = cache._slab.fork()
        for name in FRAMES:
            frames = getattr(cache, name)
            setattr(other, name, replace(frames, slab=other._slab) if isinstance(frames, SlabFrames) else frames)
    return other


def detached(cache: StateCache) -> StateCache:
    """A second cache with the same memory and no graph."""
    other = fork(cache)
    for name in FRAMES:
        frames = getattr(cache, name)
        setattr(other, name, frames.detach() if frames is not None else None)
    return other


def saved(cache: StateCache, split: TokenSplit | None = None) -> dict[str, Any]:
    """What `restored_cache` needs: numbers, lists and tensors whose first axis is the batch.

    Args:
        split: over ranks that each have their own heads in such a cache; all of them call it, and get all heads.
    """
    frames = {name: _frames(getattr(cache, name), split) for name in FRAMES}
    return {**{name: getattr(cache, name) for name in PLAIN}, **frames}


def restored_cache(spec: StreamSpec, state: dict[str, Any], split: TokenSplit | None = None) -> StateCache:
    """The cache of which `saved` told, with this rank's heads alone where there is a `split`."""
    cache = StateCache(spec)
    for name in PLAIN:
        setattr(cache, name, state[name])
    for name in FRAMES:
        if state.get(name) is not None:
            parts = {k: tuple(v) for k, v in state[name].items()}
            if split is not None:
                parts |= {k: tuple(split.own_heads(x).clone() for x in parts[k]) for k in HEADED}
            setattr(cache, name, TensorFrames(**parts))
    return cache


def _frames(frames: TensorFrames | None, split: TokenSplit | None) -> dict[str, list[Any]] | None:
    if frames is None:
        return None
    parts = {name: list(getattr(frames.detach(), name)) for name in (*HEADED, "source", "written")}
    return parts if split is None else parts | {name: [split.all_heads(x) for x in parts[name]] for name in HEADED}
