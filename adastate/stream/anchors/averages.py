"""Frames made of others: pooled over what leaves the window, and blended into a moving average."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from adastate.stream.anchors.anchor import AnchorChoices

if TYPE_CHECKING:
    from torch import Tensor

    from adastate.stream.kv_frames import CachedFrames, TensorFrames


def check_decay(spec: AnchorChoices, count: int) -> None:
    """Raises ValueError unless there are `count` decays from 0 to 1."""
    if len(spec.decay) != count or not all(0 <= d <= 1 for d in spec.decay):
        raise ValueError(f"anchor {spec.anchor!r} takes {count} decay from 0 to 1, got {list(spec.decay)}")


def described_decay(spec: AnchorChoices) -> str:
    return f"decay {', '.join(map(str, spec.decay))}"


def pooled(evicted: CachedFrames, pool: str, count: int) -> TensorFrames:
    """`count` frames that stand for the evicted ones: their mean over all tokens, or token by token.

    They have no place in the stream, and count as written by the last chunk that went into them.
    """
    from adastate.stream.kv_frames import HIDDEN, TensorFrames

    tokens = evicted.frame_tokens

    def each(x: Tensor) -> Tensor:
        if pool == "mean":
            return x.mean(1, keepdim=True).expand(-1, count * tokens, -1, -1)
        return x if evicted.count == count else x.unflatten(1, (evicted.count, tokens)).mean(1)

    return TensorFrames(
        tuple(map(each, evicted.keys)),
        tuple(map(each, evicted.values)),
        (HIDDEN,) * count,
        evicted.written[-1:] * count,
    )


def blended(old: CachedFrames, new: TensorFrames, decay: float) -> TensorFrames:
    """Moving average; `decay` is the weight of the old."""
    import torch

    def blend(a: tuple[Tensor, ...], b: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return tuple(torch.lerp(y, x, decay) for x, y in zip(a, b, strict=True))

    return replace(new, keys=blend(old.keys, new.keys), values=blend(old.values, new.values))
