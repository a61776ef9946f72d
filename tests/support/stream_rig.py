"""A stream of a few chunks, and what it shows."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from adastate.stream import StateCache
from adastate.stream.rollout import rollout
from adastate.types import Chunk
from tests.support.tiny import DOT, SHAPE, SIZE, Drawn, NetStudent


@torch.no_grad()
def stream(student: Any, cache: StateCache, chunks: int, seed: int = 0, **kwargs: Any) -> list[Chunk]:
    shape = SHAPE if not isinstance(student, NetStudent) or student.net.size == SIZE else (DOT.channels, 2, 2)
    return list(rollout(student, Drawn(seed), cache, chunks, shape, **kwargs))


def content(chunks: list[Chunk]) -> Tensor:
    return torch.cat([c.content for c in chunks], 1)
