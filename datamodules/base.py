"""What all DataModules share: batches without end, and a loader that goes on at the very next sample.

It knows nothing of what a sample is; what reads shards derives from from_shards.py instead.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import lightning.pytorch as pl
from torch.utils.data import DataLoader

from adastate.types import Batch
from datamodules.shards.sampler import BatchStream, ResumeCursor


class EndlessData(pl.LightningDataModule):
    """Endless batches in one global order, whatever the number of processes; its state is the place in that order.

    A subclass says what its batches are (`batches`) and what their order is a function of (`identity`).

    Args:
        batch: samples a process and step.
        workers: loader processes (0: in the training process).
    """

    def __init__(self, batch: int, workers: int) -> None:
        super().__init__()
        if batch < 1 or workers < 0:
            raise ValueError(f"a batch of {batch} samples and {workers} workers: at least 1 and 0 are needed")
        self.batch, self.workers = batch, workers
        self.cursor = ResumeCursor()

    @abstractmethod
    def batches(self, rank: int = 0, world: int = 1) -> BatchStream:
        """The batches of process `rank` of `world`."""

    @abstractmethod
    def identity(self) -> dict[str, Any]:
        """What the order is a function of, and `samples`, those of an epoch: a resumed run must have the same."""

    def train_dataloader(self) -> DataLoader[Batch]:
        return self.cursor.loader(self.trainer, self.batches, self.workers, self.identity())

    def on_before_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        self.cursor.begin(batch, self.trainer)
        return batch

    def state_dict(self) -> dict[str, Any]:
        return self.cursor.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.cursor.load_state_dict(state_dict)
