"""Attention by position: on every anchor frame, every past frame and the chunk's own, by layer and level."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from adastate.stream.attention_probe import AttentionShare
from adastate.stream.spec import StreamSpec
from adastate.training.student import Student
from adastate.types import FrameMask

Place = tuple[str, int]
"""Kind of key, and which one: ("anchor", i-th), ("past", -distance to the chunk), ("state", i-th), ("own", i-th)."""


class AttentionByPlace(AttentionShare):
    """Mean attention of a chunk's queries to each visible frame, by layer, level and position.

    Averaged over heads, queries, samples, and the chunks from `first` on, for which the window is full. A frame's share
    is the sum over its tokens, so the shares of a pass add up to 1.

    Args:
        levels: denoising passes of a chunk; the clean pass follows them.
        first: first chunk that is measured.
    """

    def __init__(self, levels: int, first: int = 0) -> None:
        super().__init__()
        self.levels, self.first = levels, first
        self._totals: dict[tuple[int, int, Place], float] = {}
        self._passes: dict[tuple[int, int], int] = {}
        self._chunk, self._level = -1, 0

    @property
    def places(self) -> list[Place]:
        """All positions that were seen, in the order of their keys."""
        order = ("anchor", "past", "state", "own")
        return sorted({place for *_, place in self._totals}, key=lambda p: (order.index(p[0]), p[1]))

    def shares(self) -> Tensor:  # type: ignore[override]
        """`[layers, levels + 1, places]`, the clean pass last; nan if a layer computes none, as in the clean pass."""
        layers = 1 + max(layer for layer, _ in self._passes)
        found = torch.full((layers, self.levels + 1, len(self.places)), float("nan"))
        for (layer, level), count in self._passes.items():
            for i, place in enumerate(self.places):
                found[layer, level, i] = self._totals.get((layer, level, place), 0.0) / count
        return found

    def __call__(self, layer: int, q: Tensor, k: Tensor, visible: FrameMask | None) -> None:
        assert self.cache is not None and self.cache.latest is not None
        cache, places = self.cache, self.cache.latest.places
        if layer == 0:
            self._level = self._level + 1 if cache.chunks == self._chunk else 0
            self._chunk = cache.chunks
        if cache.chunks < self.first or not places.chunk:
            return
        named: list[Place] = [("anchor", i) for i in places.anchor_frames]
        named += [("past", i - len(places.past)) for i in range(len(places.past))]
        named += [("state", i) for i in range(len(places.state))]
        named += [("own", i) for i in range(len(places.chunk))]
        tokens = q.shape[1] // (len(places.state) + len(places.chunk))
        scores = q[:, len(places.state) * tokens :].transpose(1, 2).float() @ k.permute(0, 2, 3, 1).float()
        scores *= q.shape[-1] ** -0.5
        for j, seen in enumerate(visible[-1] if visible is not None else ()):
            if not seen:
                scores[..., j * tokens : (j + 1) * tokens] = float("-inf")
        frames = scores.softmax(-1).mean((0, 1, 2)).unflatten(0, (-1, tokens)).sum(1).tolist()
        at = (layer, min(self._level, self.levels))
        self._passes[at] = self._passes.get(at, 0) + 1
        for place, share in zip(named, frames, strict=True):
            self._totals[(*at, place)] = self._totals.get((*at, place), 0.0) + share


@dataclass(frozen=True)
class AttentionShares:
    """Attention of one stream.

    Attributes:
        past_frames: window size n.
        places: names of the visible frames, such as "anchor 0" and "past -1".
        shares: `[layers, levels + 1, places]`, the clean pass last.
    """

    past_frames: int
    places: tuple[str, ...]
    shares: np.ndarray

    def kind(self, name: str, denoising: bool = True) -> float:
        """Mean share of all frames of a kind, over layers and levels; without the clean pass if `denoising`."""
        mine = [i for i, place in enumerate(self.places) if place.split()[0] == name]
        passes = self.shares[:, :-1] if denoising else self.shares
        return float(np.nanmean(passes[..., mine].sum(-1))) if mine else 0.0

    def excess(self, name: str) -> float:
        """The same, divided by an equal share for every visible frame; 1 means no preference."""
        mine = sum(place.split()[0] == name for place in self.places)
        return self.kind(name) * len(self.places) / mine if mine else float("nan")


def with_window(spec: StreamSpec, past_frames: int) -> StreamSpec | None:
    """The same stream with another window; None if that is not possible."""
    try:
        return replace(spec, past_frames=past_frames)
    except ValueError:
        return None


def measure_attention_by_place(
    student: Student, prompts: Sequence[str], windows: Sequence[int], chunks: int, seed: int
) -> list[AttentionShares]:
    """Attention of streams that run `chunks` chunks after the window is full, for each window size."""
    found = []
    for past in windows:
        spec = with_window(student.spec, past)
        if spec is None:
            continue
        full = -(-((spec.window_frames or past) + spec.chunk_frames) // spec.chunk_frames)
        probe = AttentionByPlace(len(spec.timesteps), full)
        frames = (full + chunks) * spec.chunk_frames
        for _ in student.stream(list(prompts), frames, seed, probe=probe, spec=spec):
            pass
        found.append(AttentionShares(past, tuple(f"{k} {i}" for k, i in probe.places), probe.shares().numpy()))
    return found
