"""Copies of a cache: one to go on with later, and one of plain data, for a checkpoint."""

from __future__ import annotations

from copy import copy
from dataclasses import replace
from typing import Any

from adastate.stream.cache import StateCache
from adastate.stream.kv_frames import TensorFrames
from adastate.stream.kv_slab import SlabFrames
from adastate.stream.spec import StreamSpec

PLAIN = ("origin", "frames", "chunks", "generated", "recent", "shared_noise", "cut")
"""What of a cache is a number, a tensor or nothing."""

FRAMES = ("anchor", "window", "last_places")
"""What of it is frames or nothing."""


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


def saved(cache: StateCache) -> dict[str, Any]:
    """What `restored` needs: numbers, lists and tensors whose first axis is the batch."""
    frames = {name: _frames(getattr(cache, name)) for name in FRAMES}
    return {**{name: getattr(cache, name) for name in PLAIN}, **frames}


def restored(spec: StreamSpec, state: dict[str, Any]) -> StateCache:
    cache = StateCache(spec)
    for name in PLAIN:
        setattr(cache, name, state[name])
    for name in FRAMES:
        if state.get(name) is not None:
            parts = {k: tuple(v) for k, v in state[name].items()}
            setattr(cache, name, TensorFrames(**parts))
    return cache


def _frames(frames: TensorFrames | None) -> dict[str, list[Any]] | None:
    if frames is None:
        return None
    return {name: list(getattr(frames.detach(), name)) for name in ("keys", "values", "source", "written")}
