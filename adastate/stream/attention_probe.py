"""What attention looks at: its share per kind of key."""

from __future__ import annotations

import torch
from torch import Tensor

from adastate.stream.cache import StateCache
from adastate.stream.positions import FramePositions
from adastate.types import FrameMask

KINDS = ("state", "past", "own")

QUERIES = 512
"""Looked at in one operation."""


class AttentionShare:
    """Mean attention of chunk queries on the anchor ("state"), the past and the pass's own keys, chunk by chunk.

    Averaged over layers, heads, queries and the passes of a chunk. Set `cache` before the first pass.
    """

    def __init__(self) -> None:
        self.cache: StateCache | None = None
        # By chunk, because a chunk's clean pass comes after the chunk has been shown. On the device until somebody asks
        # for them, so that the host does not wait in every layer.
        self._sums: dict[int, Tensor] = {}
        self._counts: dict[int, int] = {}

    @property
    def shares(self) -> dict[str, list[float]]:
        """Per kind, the share in every chunk so far."""
        if not self._sums:
            return {kind: [] for kind in KINDS}
        means = torch.stack([total / self._counts[chunk] for chunk, total in self._sums.items()])
        return dict(zip(KINDS, means.T.tolist(), strict=True))

    def __call__(self, layer: int, q: Tensor, k: Tensor, visible: FrameMask | None) -> None:
        assert self.cache is not None and self.cache.latest is not None
        cache, places = self.cache, self.cache.latest.places
        if cache.anchor is not None and not places.anchor:
            return  # a clean pass that is barred from the old state
        part, chunk = attention_shares(q, k, visible, places), cache.chunks
        self._sums[chunk] = self._sums[chunk] + part if chunk in self._sums else part
        self._counts[chunk] = self._counts.get(chunk, 0) + 1


class PassShare:
    """The same of one pass.

    Args:
        places: of its memory.
    """

    def __init__(self, places: FramePositions) -> None:
        self._places, self._sum, self._layers = places, torch.zeros(len(KINDS)), 0

    @property
    def shares(self) -> dict[str, float]:
        """Per kind, averaged over the layers so far; empty before the first."""
        if not self._layers:
            return {}
        return dict(zip(KINDS, (self._sum / self._layers).tolist(), strict=True))

    def __call__(self, layer: int, q: Tensor, k: Tensor, visible: FrameMask | None) -> None:
        self._sum = self._sum.to(q.device) + attention_shares(q, k, visible, self._places)
        self._layers += 1


def attention_shares(q: Tensor, k: Tensor, visible: FrameMask | None, places: FramePositions) -> Tensor:
    """Mean attention `[3]` of a pass's content queries to each of KINDS, over all heads and queries.

    Args:
        q, k: rotated queries and keys of one layer `[B, L, N, K]`, [state | chunk] and [anchor | past | state | chunk].
        places: of the pass.
    """
    tokens = q.shape[1] // (len(places.state) + len(places.chunk))
    first = len(places.state) * tokens
    old, past = len(places.anchor) * tokens, len(places.past) * tokens
    hidden = [j for j, seen in enumerate(visible[-1]) if not seen] if visible is not None else []
    own, keys = q[:, first:].transpose(1, 2), k.permute(0, 2, 3, 1).float()
    weight = keys.new_zeros(keys.shape[-1])
    for some in own.split(QUERIES, 2):  # all at once would take gigabytes at the size of real videos
        scores = some.float() @ keys * q.shape[-1] ** -0.5
        for j in hidden:
            scores[..., j * tokens : (j + 1) * tokens] = float("-inf")
        weight += scores.softmax(-1).mean((0, 1)).sum(0)
    weight /= own.shape[2]
    return torch.stack([weight[:old].sum(), weight[old : old + past].sum(), weight[old + past :].sum()])
