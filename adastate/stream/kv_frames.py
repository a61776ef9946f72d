"""Cached keys and values of some latent frames, for all layers. Immutable: every operation makes a new one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

HIDDEN = -1
"""Stream index of a cached frame that is no frame of the video: a state, or an average."""


class CachedFrames(Protocol):
    """Frames, wherever their keys and values lie: in tensors of their own, or in a slab."""

    @property
    def keys(self) -> tuple[Tensor, ...]: ...
    @property
    def values(self) -> tuple[Tensor, ...]: ...
    @property
    def source(self) -> tuple[int, ...]: ...
    @property
    def written(self) -> tuple[int, ...]: ...
    @property
    def count(self) -> int: ...
    @property
    def frame_tokens(self) -> int: ...
    @property
    def bytes(self) -> int: ...
    def append(self, other: Any) -> Any: ...
    def first(self, n: int) -> Any: ...
    def last(self, n: int) -> Any: ...
    def drop_first(self, n: int) -> Any: ...
    def drop_last(self, n: int) -> Any: ...
    def compact(self) -> Any: ...
    def detach(self) -> Any: ...


@dataclass(frozen=True)
class TensorFrames:
    """Raw keys (before RoPE) and values of `count` frames.

    Attributes:
        keys, values: one `[B, count * L, N, K]` per layer, L tokens a frame.
        source: stream index of every frame, HIDDEN for a state or an average.
        written: chunk in whose clean pass each frame was written.
    """

    keys: tuple[Tensor, ...]
    values: tuple[Tensor, ...]
    source: tuple[int, ...]
    written: tuple[int, ...]

    @property
    def count(self) -> int:
        return len(self.source)

    @property
    def frame_tokens(self) -> int:
        return self.keys[0].shape[1] // self.count if self.count else 0

    @property
    def bytes(self) -> int:
        return sum(t.numel() * t.element_size() for t in (*self.keys, *self.values))

    def append(self, other: TensorFrames) -> TensorFrames:
        return TensorFrames(
            tuple(torch.cat(pair, 1) for pair in zip(self.keys, other.keys, strict=True)),
            tuple(torch.cat(pair, 1) for pair in zip(self.values, other.values, strict=True)),
            self.source + other.source,
            self.written + other.written,
        )

    def _slice(self, begin: int, end: int) -> TensorFrames:
        rows = slice(begin * self.frame_tokens, end * self.frame_tokens)
        return TensorFrames(
            tuple(k[:, rows] for k in self.keys),
            tuple(v[:, rows] for v in self.values),
            self.source[begin:end],
            self.written[begin:end],
        )

    def first(self, n: int) -> TensorFrames:
        return self._slice(0, min(n, self.count))

    def last(self, n: int) -> TensorFrames:
        return self._slice(max(0, self.count - n), self.count)

    def drop_first(self, n: int) -> TensorFrames:
        return self._slice(min(n, self.count), self.count)

    def drop_last(self, n: int) -> TensorFrames:
        return self._slice(0, max(0, self.count - n))

    def take(self, layer: int, frames: tuple[int, ...]) -> tuple[Tensor, Tensor]:
        """Keys and values of one layer for some of the frames, in the order given; a copy only where it must be."""
        k, v = self.keys[layer], self.values[layer]
        if frames == tuple(range(self.count)):
            return k, v
        if frames and frames == tuple(range(frames[0], frames[0] + len(frames))):
            rows = slice(frames[0] * self.frame_tokens, (frames[-1] + 1) * self.frame_tokens)
            return k[:, rows], v[:, rows]
        at = torch.tensor(frames, dtype=torch.long, device=k.device)
        shape = (self.count, self.frame_tokens)
        return tuple(x.unflatten(1, shape)[:, at].flatten(1, 2) for x in (k, v))  # type: ignore[return-value]

    def compact(self) -> TensorFrames:
        """A copy that does not keep alive the larger tensors that this one is a view of."""
        return TensorFrames(
            tuple(k.clone() for k in self.keys), tuple(v.clone() for v in self.values), self.source, self.written
        )

    def detach(self) -> TensorFrames:
        return TensorFrames(
            tuple(k.detach() for k in self.keys), tuple(v.detach() for v in self.values), self.source, self.written
        )


def straight_through(values: TensorFrames, gradient: TensorFrames) -> TensorFrames:
    """Frames with the values of one pass and the gradient of another: sg(clean) + exit - sg(exit)."""

    def mix(a: tuple[Tensor, ...], b: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return tuple(x.detach() + (y - y.detach()) for x, y in zip(a, b, strict=True))

    return TensorFrames(
        mix(values.keys, gradient.keys), mix(values.values, gradient.values), values.source, values.written
    )
