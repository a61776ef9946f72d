"""Prompts without pictures."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from torch.utils.data import DataLoader

from adastate.types import Batch
from datamodules.order import Batches, Cursor, Order
from datamodules.world import world_batch


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
        self.cursor = Cursor()

    def batches(self, rank: int = 0, world: int = 1) -> Batches:
        make: Callable[[range], Batch]
        if self.prompts is None:
            make = partial(world_batch, self.world_seed, pictures=0)
        else:
            make = partial(_prompt_batch, self.prompts, Order([len(self.prompts)], self.seed))
        return Batches(make, self.batch, self.batch * world, rank)

    def train_dataloader(self) -> DataLoader[Batch]:
        if self.prompts is None:
            identity = {"kind": "captions of the tiny world", "seed": self.world_seed}
        else:
            digest = hashlib.blake2b("\n".join(self.prompts).encode(), digest_size=6).hexdigest()
            identity = {"kind": "prompts", "seed": self.seed, "samples": len(self.prompts), "digest": digest}
        return self.cursor.loader(self.trainer, self.batches, self.workers, identity)

    def on_before_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        self.cursor.begin(batch, self.trainer)
        return batch

    def state_dict(self) -> dict[str, Any]:
        return self.cursor.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.cursor.load_state_dict(state_dict)


def _prompt_batch(prompts: list[str], order: Order, indices: range) -> Batch:
    return Batch(index=torch.tensor(indices), prompts=[prompts[order[i]] for i in indices])
