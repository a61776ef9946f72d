"""A run of made-up steps under `Preempt` and `Heartbeat`, quick to start: `python -m tests.support.steps FOLDER ...`.

The batches of iteration i are drawn from i, so that what comes after a resume can be compared bit for bit.
"""

from __future__ import annotations

import argparse
import json
import signal
import time
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from adastate.runtime import signals
from callbacks import Checkpoints, Heartbeat, Preempt
from callbacks.checkpointing.resume import newest_checkpoint


class Steps(pl.LightningModule):
    """Counts the steps that begin after a signal was heard."""

    def __init__(self, iterations: int, step_s: float = 0.0, hang_at: int = -1, half: int = 1) -> None:
        super().__init__()
        self.net = nn.Linear(4, 4)
        self.iterations, self.step_s, self.hang_at, self.half = iterations, step_s, hang_at, half
        self.late, self.batches = 0, 0

    @property
    def iteration(self) -> int:
        return self.batches // self.half

    @property
    def at_boundary(self) -> bool:
        return self.batches % self.half == 0

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        self.late += bool(signals.heard())
        if self.iteration == self.hang_at:
            time.sleep(600)
        time.sleep(self.step_s)
        g = torch.Generator().manual_seed(1000 * self.global_rank + self.batches)
        self.batches += 1
        if self.iteration >= self.iterations:
            self.trainer.should_stop = True
        return self.net(torch.randn(8, 4, generator=g)).square().mean()

    def get_extra_state(self) -> dict[str, int]:
        return {"batches": self.batches}

    def set_extra_state(self, state: dict[str, int]) -> None:
        self.batches = state["batches"]

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), 0.01)


class Blank(pl.LightningDataModule):
    def __init__(self, workers: int = 0) -> None:
        super().__init__()
        self.workers = workers

    def train_dataloader(self) -> DataLoader[Tensor]:
        return DataLoader(torch.zeros(100_000, 1), batch_size=1, num_workers=self.workers)  # type: ignore[arg-type]


def run(
    folder: Path, module: Steps, *callbacks: pl.Callback, world: int = 1, workers: int = 0, save_every: int = 10_000
) -> pl.Trainer:
    """Goes on from the folder's newest checkpoint."""
    trainer = pl.Trainer(
        accelerator="cpu",
        devices=world,
        strategy="ddp" if world > 1 else "auto",
        max_epochs=-1,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
        callbacks=[*callbacks, Checkpoints(str(folder / "checkpoints"), every=save_every)],
    )
    state = newest_checkpoint(folder / "checkpoints")
    trainer.fit(module, datamodule=Blank(workers), ckpt_path=state, weights_only=True if state else None)
    return trainer


class Tell(pl.Callback):
    """Says on the standard output what the test waits for."""

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        module: Any = pl_module
        if module.batches in (2, 20):
            print(f"at {module.batches}", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--iterations", type=int, default=100_000)
    parser.add_argument("--world", type=int, default=1)
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--rank", type=int, default=0)
    parser.add_argument("--hang", type=int, default=-1, help="rank that hangs at iteration 20")
    parser.add_argument("--hold", action="store_true", help="go no further before a signal has come")
    parser.add_argument("--timeout", type=float, default=1000.0)
    args = parser.parse_args()
    signals.listen()
    print("listening", flush=True)
    while args.hold and not signals.heard():  # so that the signal comes before the trainer listens, on any machine
        time.sleep(0.01)
    torch.set_num_threads(1)
    pl.seed_everything(0)
    module = Steps(args.iterations, 0.005, 20 if args.rank == args.hang else -1, half=2)
    heart = Heartbeat(args.timeout, min(5.0, args.timeout / 6))
    try:
        run(args.folder, module, Preempt(), heart, Tell(), world=args.world, workers=args.workers)
    finally:
        ignored = signal.getsignal(signal.SIGUSR1) == signal.SIG_IGN
        told = {"iteration": module.iteration, "late": module.late, "ignored": ignored}
        (args.folder / f"rank{args.rank}.json").write_text(json.dumps(told))
