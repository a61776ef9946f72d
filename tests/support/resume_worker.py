"""A module that only notes what it is given, and one process of a run of two:
`python -m tests.support.resume_worker RANK FOLDER` resumes from FOLDER/start.ckpt and saves its stream there.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor

from adastate.types import Batch
from datamodules.clips import ShardData

Stream = list[tuple[int, str]]
"""(global sample number, prompt) of every row, in order."""


class Notes(pl.LightningModule):
    """Steps by itself after `accumulate` batches, as Distill does; or leaves it to Lightning with `accumulate` 0."""

    def __init__(self, iterations: int, accumulate: int = 0) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.iterations, self.accumulate, self.iteration = iterations, accumulate, 0
        self.automatic_optimization = accumulate == 0
        self.waiting: Stream = []
        self.stream: Stream = []

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor | None:
        self.waiting += zip(batch.index.tolist(), batch.prompts, strict=True)
        loss = self.weight * 0.0
        if self.automatic_optimization:
            self._next(1)
            return loss
        self.manual_backward(loss)
        if (batch_idx + 1) % self.accumulate == 0:
            optimizer: Any = self.optimizers()
            optimizer.step()
            self._next(self.accumulate)
        return None

    def _next(self, batches: int) -> None:
        self.stream, self.waiting = self.stream + self.waiting, []
        self.iteration += 1
        if self.iteration >= self.iterations:
            self.trainer.should_stop = True

    def get_extra_state(self) -> int:
        return self.iteration

    def set_extra_state(self, state: int) -> None:
        self.iteration = state

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), 0.1)


class Saves(pl.Callback):
    """Saves after every batch, whether it ends an iteration or not."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.saved: list[tuple[Path, int]] = []  # and the iterations by then

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: Any, *_: Any) -> None:
        path = self.folder / f"{len(self.saved)}.ckpt"
        trainer.save_checkpoint(path)
        self.saved.append((path, pl_module.iteration))


def trainer(root: Path, *callbacks: pl.Callback, **kwargs: Any) -> pl.Trainer:
    return pl.Trainer(
        accelerator="cpu",
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        max_epochs=-1,
        callbacks=list(callbacks),
        default_root_dir=root,
        **{"devices": 1, "logger": False, **kwargs},
    )


def run(
    data: pl.LightningDataModule,
    module: Notes,
    root: Path,
    *callbacks: pl.Callback,
    ckpt_path: Path | None = None,
    **kwargs: Any,
) -> Stream:
    trainer(root, *callbacks, **kwargs).fit(module, datamodule=data, ckpt_path=ckpt_path)
    return module.stream


Data = Callable[[], pl.LightningDataModule]


if __name__ == "__main__":
    rank, folder = int(sys.argv[1]), Path(sys.argv[2])
    os.environ["LOCAL_RANK"] = str(rank)
    torch.set_num_threads(1)
    both = {"devices": 2, "strategy": "ddp"}
    shards = ShardData(str(folder / "shards"), batch=2, workers=1, max_skipped_share=0.2)
    stream = run(shards, Notes(6), folder, ckpt_path=folder / "start.ckpt", **both)
    refused = ""
    try:
        # One process meets what is bad when it reads it; setup cannot know, as only the words are empty.
        strict = ShardData(str(folder / "shards"), batch=2, max_skipped_share=0.05)
        run(strict, Notes(10_000), folder / "strict", **both)
    except ValueError as error:
        refused = str(error)
    torch.save({"stream": stream, "refused": refused}, folder / f"rank{rank}.pt")
