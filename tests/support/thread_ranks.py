"""Ranks that are threads of this process and exchange through its memory, so that a split is tested in milliseconds."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from threading import Barrier
from typing import Any, TypeVar, cast

import torch
from torch import Tensor

from adastate.distributed.sequence_split import SequenceSplit

R = TypeVar("R")


@dataclass
class Desk:
    """Where the ranks lay what they send."""

    ranks: int
    sent: list[Tensor | None] = field(default_factory=list)
    numbers: list[int] = field(default_factory=list)
    """How many numbers each rank sent to others, exchange by exchange."""

    def __post_init__(self) -> None:
        self.sent, self.meet = [None] * self.ranks, Barrier(self.ranks, timeout=60)

    def swap(self, parts: Tensor, rank: int) -> Tensor:
        self.sent[rank] = parts.detach()
        if rank == 0:
            self.numbers.append(parts.numel() * (self.ranks - 1) // self.ranks)
        self.meet.wait()
        got = torch.stack([cast(Tensor, other)[rank] for other in self.sent])
        self.meet.wait()
        return got


class _Swap(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, parts: Tensor, desk: Desk, rank: int) -> Tensor:
        ctx.desk, ctx.rank = desk, rank
        return desk.swap(parts, rank)

    @staticmethod
    def backward(ctx: Any, *given: Tensor) -> tuple[Tensor, None, None]:
        return ctx.desk.swap(given[0].contiguous(), ctx.rank), None, None


@dataclass(frozen=True)
class ThreadSplit(SequenceSplit):
    """The real one, but for the way of the exchange."""

    def _exchange(self, parts: Tensor) -> Tensor:
        return _Swap.apply(parts, self.group, self.rank)  # type: ignore[no-any-return, no-untyped-call]


def on_ranks(degree: int, job: Callable[[SequenceSplit], R]) -> tuple[list[R], Desk]:
    """What `job` returns on each of `degree` ranks, and what they exchanged."""
    desk = Desk(degree)
    splits = [ThreadSplit(cast(Any, desk), degree, rank) for rank in range(degree)]

    def run(split: SequenceSplit) -> R:
        torch.set_num_threads(1)
        try:
            return job(split)
        except BaseException:
            desk.meet.abort()
            raise

    with ThreadPoolExecutor(degree) as pool:
        return list(pool.map(run, splits)), desk
