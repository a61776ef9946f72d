"""Preallocated memory for streams without gradient: a place for every latent frame, the same tensors from the first
chunk to the last.

A pass writes its own keys and values where they will stay, beside those that it reads, so attention gets one tensor
and nothing is joined. What a commit moves is labels: the places of the chunk become the window's newest, those of the
new state the anchor's, and what they replace is free for the next pass. Attention does not care in which order keys
lie, only where each was turned to. Not for passes with gradient, whose graph would hold on to what changes here.
"""

from __future__ import annotations

from copy import copy
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import NamedTuple, cast

import torch
from torch import Tensor

from adastate.stream.kv_frames import CachedFrames, TensorFrames
from adastate.types import Positions, Rotate, SlabTensors

AT_ONCE = 2**24
"""Numbers that are turned in one operation: few of them are quick so, and more would need gigabytes in between."""


class Slab:
    """Keys and values of all layers, `[layers, B, places * L, N, K]` each, made by the first pass.

    Args:
        layers: of the network.
        places: latent frames for which there is room; more are made when they are needed.
        rotates: whether cached keys change their RoPE index. If so they are kept raw, too, and rotated once a chunk.
    """

    def __init__(self, layers: int, places: int, rotates: bool) -> None:
        self.layers, self.places, self.rotates = layers, places, rotates
        self.keys: Tensor | None = None
        self.values: Tensor | None = None
        self.raw: Tensor | None = None
        self.tokens = 0
        self._held: set[int] = set()
        self._at: dict[int, int] = {}

    @property
    def bytes(self) -> int:
        return sum(t.numel() * t.element_size() for t in (self.keys, self.values, self.raw) if t is not None)

    def fork(self) -> Slab:
        """A second slab that holds the same."""
        other = copy(self)
        other.keys, other.values, other.raw = (
            None if t is None else t.clone() for t in (self.keys, self.values, self.raw)
        )
        other._held, other._at = set(self._held), dict(self._at)
        return other

    def free(self, count: int) -> Positions:
        """The first `count` places that nobody holds; they remain free."""
        found: list[int] = []
        place = 0
        while len(found) < count:
            if place not in self._held:
                found.append(place)
            place += 1
        if place > self.places:
            self.places = max(place, 2 * self.places)
        return tuple(found)

    def reserve(self, kept: tuple[CachedFrames | None, ...]) -> None:
        """Frees all places but those of these frames."""
        self._held = {place for frames in kept if isinstance(frames, SlabFrames) for place in frames.places}

    def store(self, frames: CachedFrames) -> SlabFrames:
        """Writes frames that were made elsewhere, averages for instance, into free places."""
        at = self.free(frames.count)
        self._held |= set(at)
        self.ensure_capacity(frames.keys[0], frames.count)
        assert self.values is not None and self.raw is not None
        for i, (k, v) in enumerate(zip(frames.keys, frames.values, strict=True)):
            for n, place in enumerate(at):
                own = slice(n * self.tokens, (n + 1) * self.tokens)
                rows = slice(place * self.tokens, (place + 1) * self.tokens)
                self.raw[i][:, rows], self.values[i][:, rows] = k[:, own], v[:, own]
        for place in at:
            self._at.pop(place, None)
        return SlabFrames(self, at, frames.source, frames.written)

    def ensure_capacity(self, own: Tensor, frames: int) -> None:
        """Makes the tensors, or larger ones, for keys like `own` `[B, frames * L, N, K]`."""
        batch, tokens, heads, head_dim = own.shape
        fits = self.keys is not None and self.keys.shape[1] == batch and self.keys.dtype == own.dtype
        if fits and self.keys.shape[2] >= self.places * self.tokens:  # type: ignore[union-attr]
            return
        self.tokens = tokens // frames
        shape = (self.layers, batch, self.places * self.tokens, heads, head_dim)

        @torch.inference_mode(False)  # what lies here outlives the pass, and is written outside of passes as well
        def grown(old: Tensor | None) -> Tensor:
            new = own.new_zeros(shape)
            if fits and old is not None:
                new[:, :, : old.shape[2]] = old
            return new

        self.keys, self.values = grown(self.keys), grown(self.values)
        self.raw = grown(self.raw) if self.rotates else None

    def rotate_keys(self, at: dict[int, int], rotate: Rotate) -> None:
        """Brings the cached keys of places `at` to the RoPE indices given there, small layers together."""
        if self.raw is None or all(self._at.get(place) == index for place, index in at.items()):
            return
        assert self.keys is not None
        last = max(at) + 1
        everywhere, shown = tuple(at.get(place, 0) for place in range(last)), slice(last * self.tokens)
        several = max(1, AT_ONCE // max(1, self.raw[0, :, shown].numel()))
        for first in range(0, self.layers, several):
            some = slice(first, first + several)
            self.keys[some, :, shown] = rotate(self.raw[some, :, shown], everywhere)
        self._at = dict(at)

    def wrote(self, places: Positions, indices: Positions) -> None:
        """Notes at which RoPE indices a pass has left its keys."""
        self._at.update(zip(places, indices, strict=True))


@dataclass(frozen=True)
class SlabFrames:
    """Frames that lie in a slab. Their operations are those of TensorFrames, and move no data."""

    slab: Slab
    places: Positions
    source: Positions
    written: Positions

    @property
    def count(self) -> int:
        return len(self.places)

    @property
    def frame_tokens(self) -> int:
        return self.slab.tokens

    @property
    def bytes(self) -> int:
        assert self.slab.keys is not None
        return 2 * self.slab.keys[:, :, : self.count * self.slab.tokens].numel() * self.slab.keys.element_size()

    @property
    def keys(self) -> tuple[Tensor, ...]:
        """Raw keys, gathered: a copy."""
        assert self.slab.raw is not None, "this slab keeps no raw keys"
        return self._gathered(self.slab.raw)

    @property
    def values(self) -> tuple[Tensor, ...]:
        assert self.slab.values is not None
        return self._gathered(self.slab.values)

    def _gathered(self, x: Tensor) -> tuple[Tensor, ...]:
        by_place = x.unflatten(2, (-1, self.slab.tokens))
        return tuple(by_place[:, :, list(self.places)].flatten(2, 3).unbind(0))

    def append(self, other: CachedFrames) -> CachedFrames:
        """In the slab if the others lie there, too; else both as tensors of their own."""
        if not isinstance(other, SlabFrames):
            return TensorFrames(self.keys, self.values, self.source, self.written).append(cast(TensorFrames, other))
        return SlabFrames(
            self.slab, self.places + other.places, self.source + other.source, self.written + other.written
        )

    def _slice(self, begin: int, end: int) -> SlabFrames:
        return SlabFrames(self.slab, self.places[begin:end], self.source[begin:end], self.written[begin:end])

    def first(self, n: int) -> SlabFrames:
        return self._slice(0, min(n, self.count))

    def last(self, n: int) -> SlabFrames:
        return self._slice(max(0, self.count - n), self.count)

    def drop_first(self, n: int) -> SlabFrames:
        return self._slice(min(n, self.count), self.count)

    def drop_last(self, n: int) -> SlabFrames:
        return self._slice(0, max(0, self.count - n))

    def compact(self) -> SlabFrames:
        return self

    def detach(self) -> SlabFrames:
        return self


class SlabMemory:
    """A slab as one pass sees it: what is there, and where the pass's own frames go.

    Args:
        slab: the memory.
        context: place and RoPE index of every cached frame in view.
        own: places of the pass's frames.
        indices: the RoPE indices of their keys.
    """

    def __init__(self, slab: Slab, context: dict[int, int], own: Positions, indices: Positions) -> None:
        self.slab, self.context, self.own, self.indices = slab, context, own, indices
        self.shown = max((*context, *own)) + 1
        """Places from the first to the last in use, which attention reads through."""
        breaks = [0, *(i + 1 for i, (a, b) in enumerate(pairwise(own)) if b != a + 1), len(own)]
        self.runs = [(a, own[a], b - a) for a, b in pairwise(breaks)]
        """(first own frame, its place, frames) of every stretch of neighbouring places."""
        self._rows: list[_Rows] = []
        self._made_for: Tensor | None = None

    @property
    def full(self) -> bool:
        """Whether everything from the first place to the last is in view."""
        return len(self.context) + len(self.own) == self.shown

    def join(self, layer: int, raw: Tensor | None, k: Tensor, v: Tensor, rotate: Rotate) -> tuple[Tensor, Tensor]:
        """Writes the pass's keys and values (raw keys only if they are kept) and returns all that are shown."""
        if layer == 0:
            self._begin(k, v, rotate)
        rows = self._rows[layer]
        for own, keys, values, kept in rows.own:
            keys.copy_(k[:, own])
            values.copy_(v[:, own])
            if raw is not None and kept is not None:
                kept.copy_(raw[:, own])
        return rows.shown

    def slab_tensors(self, rotate: Rotate, raw: bool) -> SlabTensors | None:
        """See Memory; None also where something that is hidden lies between what is shown."""
        slab = self.slab
        if slab.keys is None or slab.values is None or not self.full or self.shown != slab.places:
            return None
        slab.rotate_keys(self.context, rotate)
        slab.wrote(self.own, self.indices)
        rows = _index(self.own, slab.tokens, slab.keys.device)
        return SlabTensors(slab.keys, slab.values, slab.raw if raw else None, rows, slab)

    def _begin(self, k: Tensor, v: Tensor, rotate: Rotate) -> None:
        if k.requires_grad or v.requires_grad:
            raise RuntimeError("a slab changes in place: passes with gradient need a StateCache without layers")
        slab = self.slab
        slab.ensure_capacity(k, len(self.own))
        slab.rotate_keys(self.context, rotate)
        slab.wrote(self.own, self.indices)
        if self._made_for is not slab.keys:  # a chunk's denoising passes share their memory, and so these
            self._rows, self._made_for = [self._look(layer) for layer in range(slab.layers)], slab.keys

    def _look(self, layer: int) -> _Rows:
        slab = self.slab
        assert slab.keys is not None and slab.values is not None
        keys, values, tokens = slab.keys[layer], slab.values[layer], slab.tokens
        raw = slab.raw[layer] if slab.raw is not None else None
        own = []
        for first, place, frames in self.runs:
            rows = slice(place * tokens, (place + frames) * tokens)
            mine = slice(first * tokens, (first + frames) * tokens)
            own.append((mine, keys[:, rows], values[:, rows], raw[:, rows] if raw is not None else None))
        return _Rows((keys[:, : self.shown * tokens], values[:, : self.shown * tokens]), own)


@lru_cache(maxsize=64)
@torch.inference_mode(False)
def _index(places: Positions, tokens: int, device: torch.device) -> Tensor:
    return (torch.tensor(places)[:, None] * tokens + torch.arange(tokens)).flatten().to(device)


class _Rows(NamedTuple):
    """One layer of a slab, cut to a pass."""

    shown: tuple[Tensor, Tensor]
    own: list[tuple[slice, Tensor, Tensor, Tensor | None]]
