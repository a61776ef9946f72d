"""Prompts without pictures; and the endless, seeded order that every datamodule here gives its samples in.

Global sample number p stands for the same sample on every machine and for every number of processes: step k gives
numbers k * global_batch and up, of which rank r takes rows r * batch and up. So a loader's whole state is one number.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache, partial
from itertools import count
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from adastate.types import Batch
from datamodules.world import world_batch


class Order:
    """An endless sequence of item numbers: each epoch holds every item once, in an order drawn from (seed, epoch).

    Args:
        groups: how many items each group has; items are numbered through all groups. For shards: samples a shard.
        seed: of the order.
        mix: groups that are shuffled together. Items that come near each other in time then lie in few files, as disks
            like it, and a set of up to `mix` groups is shuffled as one.
    """

    def __init__(self, groups: Sequence[int], seed: int, mix: int = 16) -> None:
        self.groups, self.seed, self.mix = list(groups), seed, mix
        self._epoch = lru_cache(maxsize=2)(self._draw)  # a batch may reach into the next epoch

    def __len__(self) -> int:
        """Items of an epoch."""
        return sum(self.groups)

    def __getitem__(self, position: int) -> int:
        epoch, at = divmod(position, len(self))
        return int(self._epoch(epoch)[at])

    def __reduce__(self) -> tuple[Any, ...]:
        return Order, (self.groups, self.seed, self.mix)  # for spawned workers: the memory of _epoch stays behind

    def _draw(self, epoch: int) -> Tensor:
        digest = hashlib.blake2b(f"order {self.seed} {epoch}".encode(), digest_size=8).digest()
        g = torch.Generator().manual_seed(int.from_bytes(digest, "big") >> 1)
        items = torch.arange(len(self)).split(self.groups)
        drawn = torch.randperm(len(items), generator=g).split(self.mix)
        mixed = [torch.cat([items[i] for i in group]) for group in drawn]
        return torch.cat([m[torch.randperm(len(m), generator=g)] for m in mixed])


class Batches(IterableDataset[Batch]):
    """Endless batches of rank `rank`, one `make(global sample numbers)` each; loader workers take turns.

    `position` is the first global sample number not yet given out, and all there is to resume. A trainer fetches
    ahead, so what it has consumed is told by the index of its last batch, not by this.

    Args:
        make: batch of the given global sample numbers.
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
    """Goes on where it stopped when it is iterated again, as for a next epoch; its workers cannot know where."""

    def __iter__(self) -> Iterator[Batch]:  # type: ignore[override]
        batches = self.dataset
        assert isinstance(batches, Batches)
        for batch in super().__iter__():
            if self.num_workers:
                batches.position += batches.global_batch
            yield batch


def train_loader(
    module: pl.LightningDataModule, batches: Callable[[int, int], Batches], workers: int
) -> DataLoader[Batch]:
    """Loader of `batches(rank, world)` for the trainer's process; without a trainer, of the only one."""
    world = module.trainer.world_size if module.trainer else 1
    rank = module.trainer.global_rank if module.trainer else 0
    return _Loader(batches(rank, world), batch_size=None, num_workers=workers)


def read_prompts(file: Path) -> list[str]:
    """One prompt a line, utf-8; blank lines are ignored.

    Raises:
        FileNotFoundError, ValueError: no such file; no prompt in it; not utf-8.
    """
    if not file.is_file():
        raise FileNotFoundError(
            f"no prompts at {file}: give a text file with one prompt a line, or null for the tiny world's"
        )
    try:
        lines = file.read_text(encoding="utf-8-sig").split("\n")  # splitlines also splits inside a line
    except UnicodeDecodeError as error:
        raise ValueError(f"{file} is not utf-8 (byte {error.start}): save it as utf-8") from error
    prompts = [line.strip() for line in lines if line.strip()]
    if not prompts:
        raise ValueError(f"{file} holds no prompt: write one a line")
    return prompts


class PromptData(pl.LightningDataModule):
    """Prompts only, endlessly: what distillation needs.

    Args:
        file: text file with one prompt a line; null gives the captions of the tiny world, which never repeat.
        batch: prompts a process and step.
        seed: of the order of the file's prompts, another one every epoch.
        world_seed: of the tiny world.
        workers: loader processes (0: read in the training process).
    """

    def __init__(
        self, file: str | None = None, batch: int = 16, seed: int = 0, world_seed: int = 0, workers: int = 0
    ) -> None:
        super().__init__()
        self.file, self.batch, self.seed, self.world_seed, self.workers = file, batch, seed, world_seed, workers
        self.prompts = read_prompts(Path(file)) if file is not None else None

    def batches(self, rank: int = 0, world: int = 1) -> Batches:
        make: Callable[[range], Batch]
        if self.prompts is None:
            make = partial(world_batch, self.world_seed, pictures=0)
        else:
            make = partial(_prompt_batch, self.prompts, Order([len(self.prompts)], self.seed))
        return Batches(make, self.batch, self.batch * world, rank)

    def train_dataloader(self) -> DataLoader[Batch]:
        return train_loader(self, self.batches, self.workers)


def _prompt_batch(prompts: list[str], order: Order, indices: range) -> Batch:
    return Batch(index=torch.tensor(indices), prompts=[prompts[order[i]] for i in indices])
