"""The endless, seeded sample order of every datamodule here, and the position of training in it.

Global sample number p refers to the same sample on every machine and for every number of processes: step k uses
numbers from k * global_batch on, of which rank r takes rows from r * batch on. So the entire state is one number.
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from itertools import count
from typing import Any, TypeVar

import lightning.pytorch as pl
import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from adastate.runtime.ranks import sample_rank
from adastate.types import Batch
from datamodules.shards import worker_watch

T = TypeVar("T")

CONTENT = ("content", "files")
"""Keys of an identity: a digest of index.json's file entries, or of sizes and dates if there is no index.json."""


class EpochShuffle:
    """An endless sequence of item indices: each epoch contains every item once, in an order drawn from (seed, epoch).

    Args:
        groups: number of items in each group; items are numbered consecutively over all groups. For shards: samples per
            shard.
        seed: of the order.
        mix: groups that are shuffled together. Items that are close in time are then in few files, which suits disks,
            and a set of up to `mix` groups is shuffled completely.
    """

    def __init__(self, groups: Sequence[int], seed: int, mix: int = 16) -> None:
        self.groups, self.seed, self.mix = list(groups), seed, mix
        self._total = sum(self.groups)
        self._epoch = lru_cache(maxsize=2)(self._draw)  # a batch may extend into the next epoch

    def __len__(self) -> int:
        """Number of items in an epoch."""
        return self._total

    def __getitem__(self, position: int) -> int:
        epoch, at = divmod(position, self._total)
        return int(self._epoch(epoch)[at])

    def __reduce__(self) -> tuple[Any, ...]:
        return EpochShuffle, (
            self.groups,
            self.seed,
            self.mix,
        )  # for spawned workers: the cache of _epoch is not sent

    def _draw(self, epoch: int) -> Tensor:
        digest = hashlib.blake2b(f"order {self.seed} {epoch}".encode(), digest_size=8).digest()
        g = torch.Generator().manual_seed(int.from_bytes(digest, "big") >> 1)
        items = torch.arange(len(self)).split(self.groups)
        drawn = torch.randperm(len(items), generator=g).split(self.mix)
        mixed = [torch.cat([items[i] for i in group]) for group in drawn]
        return torch.cat([m[torch.randperm(len(m), generator=g)] for m in mixed])


class BatchStream(IterableDataset[Batch]):
    """Endless batches of rank `rank`, one `make(global sample numbers)` each; loader workers take turns.

    `position` is the first global sample number that has not been handed out. A trainer prefetches, so its own progress
    is given by its ResumeCursor, not by this.

    Args:
        make: makes the batch of the given global sample numbers.
        batch: rows of this process.
        global_batch: rows of all processes in one step.
        rank: of this process.
        position: global sample number to start from.
    """

    def __init__(
        self, make: Callable[[range], Batch], batch: int, global_batch: int, rank: int = 0, position: int = 0
    ) -> None:
        if batch < 1 or global_batch < (rank + 1) * batch:
            raise ValueError(f"rank {rank} with a batch of {batch} does not fit into a global batch of {global_batch}")
        self.make, self.batch, self.global_batch, self.rank = make, batch, global_batch, rank
        self.position = position

    def __iter__(self) -> Iterator[Batch]:
        worker = get_worker_info()
        number, workers = (worker.id, worker.num_workers) if worker else (0, 1)
        for start in count(self.position + number * self.global_batch, workers * self.global_batch):
            if worker is None:
                self.position = start + self.global_batch
            first = start + self.rank * self.batch
            yield self.make(range(first, first + self.batch))

    def state_dict(self) -> dict[str, int]:
        return {"position": self.position}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.position = state["position"]


class _Loader(DataLoader[Batch]):
    """Continues where it stopped when it is iterated again, as for a next epoch; its workers cannot know where."""

    def __init__(self, batches: BatchStream, workers: int, start: Callable[[], int] | None) -> None:
        # Pinned memory, so that a batch's copy to the GPU does not block the host.
        super().__init__(
            batches,
            batch_size=None,
            num_workers=workers,
            pin_memory=torch.cuda.is_available(),
            timeout=worker_watch.LOOK_S if workers else 0.0,
        )
        self.start = start

    def __iter__(self) -> Iterator[Batch]:  # type: ignore[override]
        batches = self.dataset
        assert isinstance(batches, BatchStream)
        if self.start is not None:
            batches.position = self.start()
        for batch in worker_watch.watched(super().__iter__()) if self.num_workers else super().__iter__():
            if self.num_workers:
                batches.position += batches.global_batch
            yield batch


class ResumeCursor:
    """Progress of training: the first global sample number that no finished iteration has used.

    A trainer holds prefetched batches, and with manual accumulation some that wait for the rest of their iteration.
    Neither count as used. So the state is taken from the batches as they go into training, and from the trainer's own
    counters: when those have changed since a batch went in, it has been used.
    """

    def __init__(self) -> None:
        self.begun = 0  # batches, since the start of this process
        self._trainer: pl.Trainer | None = None
        self._loader: BatchStream | None = None
        self._identity: dict[str, Any] = {}
        self._restored: dict[str, Any] = {}
        self._first = self._end = 0  # of the current iteration; of the last batch
        self._counters: tuple[int, int] | None = None  # at the start of the current iteration

    def loader(
        self,
        trainer: pl.Trainer | None,
        batches: Callable[[int, int], BatchStream],
        workers: int,
        identity: dict[str, Any],
    ) -> DataLoader[Batch]:
        """Loader of `batches(rank, world)` for the trainer's process; without a trainer, for a single process.

        Args:
            identity: everything that determines the order; `samples` is the number in an epoch.

        Raises:
            ValueError: the checkpoint was made with other data, or processes see different data.
        """
        self._trainer, self._identity = trainer, identity
        if trainer is not None and trainer.ckpt_path and not self._restored:
            warnings.warn(
                f"{trainer.ckpt_path} does not say where in the data it stopped: start a new run", stacklevel=2
            )
        mine = sample_rank(trainer)
        self._loader = together(trainer, lambda: self._made(batches, mine.rank, mine.world))
        if trainer is not None and trainer.world_size > 1:
            same = _anywhere(trainer.strategy.broadcast(identity)) == _anywhere(identity)
            if trainer.strategy.reduce_boolean_decision(not same, all=False):
                raise ValueError(f"processes see different data, this one {identity}: is it complete on every machine?")
        return _Loader(self._loader, workers, self.position if trainer else None)

    def _made(self, batches: Callable[[int, int], BatchStream], rank: int, world: int) -> BatchStream:
        saved = self._restored.get("data", self._identity)
        # an older checkpoint has fewer keys
        changed = [k for k in {**saved, **self._identity} if k not in CONTENT or (k in saved and k in self._identity)]
        told = ", ".join(
            f"{k} {saved.get(k)} -> {self._identity.get(k)}" for k in changed if saved.get(k) != self._identity.get(k)
        )
        if told:
            raise ValueError(
                f"this checkpoint stopped at sample {self._restored['cursor']} of other data ({told}): use the same "
                "data again, or start a new run from its weights"
                + "; without an index.json a copy of the files counts as other data"
                * ("files " in told)
            )
        made = batches(rank, world)
        made.position = self._end
        return made

    def begin(self, batch: Batch, trainer: pl.Trainer | None) -> None:
        """Records a batch that goes into training, before it is moved to a device."""
        if trainer is None or not trainer.training or self._loader is None:
            return
        now = _counters(trainer)
        if now != self._counters:
            self._first, self._counters = self._end, now
        start = int(batch.index[0]) - self._loader.rank * self._loader.batch
        self._end = start + self._loader.global_batch
        self.begun += 1

    def position(self) -> int:
        """The first global sample number that no finished iteration has used."""
        if self._trainer is None:
            return self._loader.position if self._loader else self._end
        return self._first if _counters(self._trainer) == self._counters else self._end

    def state_dict(self) -> dict[str, Any]:
        """`epoch`, `cursor` in global sample numbers, and `data`, which identifies the data."""
        if self._loader is None:
            return self._restored
        at = self.position()
        return {"epoch": at // self._identity.get("samples", at + 1), "cursor": at, "data": self._identity}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._restored, self._counters = dict(state), None
        self._first = self._end = int(state["cursor"])
        if self._loader is not None:
            self._loader.position = self._end


def _anywhere(identity: dict[str, Any]) -> dict[str, Any]:
    """The part that is equal for copies of the data on other machines, where dates and inodes differ."""
    return {k: v for k, v in identity.items() if k != "files"}


def _counters(trainer: pl.Trainer) -> tuple[int, int]:
    """Counters that change when an iteration ends. A module that steps by itself has its own count, which also changes
    when an update is skipped; other counters may change before the optimiser steps."""
    module = trainer.lightning_module
    own = 0 if module.automatic_optimization else int(getattr(module, "iteration", 0))
    return trainer.global_step, own


def together(trainer: pl.Trainer | None, make: Callable[[], T]) -> T:
    """Returns the result of `make`; if it fails in one process it fails in all, so that none waits for the others.

    Raises:
        ValueError: here or in another process.
    """
    if trainer is None or trainer.world_size == 1:
        return make()
    made, error = None, None
    try:
        made = make()
    except ValueError as found:
        error = found
    if trainer.strategy.reduce_boolean_decision(error is not None, all=False):
        raise error or ValueError("another process cannot read the data: see its message")
    assert made is not None
    return made
