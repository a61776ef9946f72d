"""What attention looks at: its share per kind of key."""

from __future__ import annotations

from torch import Tensor

from adastate.stream.cache import StateCache
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
        self._sums: dict[int, list[float]] = {}  # by chunk: a chunk's clean pass comes after the chunk has been shown
        self._counts: dict[int, int] = {}

    @property
    def shares(self) -> dict[str, list[float]]:
        """Per kind, the share in every chunk so far."""
        return {kind: [s[i] / self._counts[c] for c, s in self._sums.items()] for i, kind in enumerate(KINDS)}

    def __call__(self, layer: int, q: Tensor, k: Tensor, visible: FrameMask | None) -> None:
        assert self.cache is not None and self.cache.latest is not None
        cache, places = self.cache, self.cache.latest.places
        if cache.anchor is not None and not places.anchor:
            return  # a clean pass that is barred from the old state
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
        parts = (weight[:old], weight[old : old + past], weight[old + past :])
        so_far = self._sums.setdefault(cache.chunks, [0.0, 0.0, 0.0])
        self._sums[cache.chunks] = [a + float(part.sum()) for a, part in zip(so_far, parts, strict=True)]
        self._counts[cache.chunks] = self._counts.get(cache.chunks, 0) + 1
