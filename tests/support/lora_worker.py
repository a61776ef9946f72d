"""One process of tests/models/test_lora.py: `python -m tests.support.lora_worker RANK WORLD OUT KIND...` distils
adapters.

Run apart from pytest, because processes that train together have to be started, not forked. OUT holds base.safetensors,
and gets rank<RANK>.pt: by strategy, the adapters after two iterations, and the average with its adapters merged.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor

from adastate.models.adapters import fold, is_adapter
from adastate.models.lora import Lora
from tests.models.test_lora import tiny_distill
from tests.support.zero_worker import From, strategy, whole

RESUMED = ("fsdp2", "zero2", "zero3")
GLOBAL = 4


class Found(pl.Callback):
    """What there is when training ends, before an engine is taken down."""

    def __init__(self, save: Path | None) -> None:
        self.save = save
        self.weights: dict[str, dict[str, Tensor]] = {}

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: Any, *_: Any) -> None:
        if pl_module.iteration == 1 and self.save is not None:
            trainer.save_checkpoint(self.save)
            average = pl_module.student.ema.whole().state_dict()
            self.weights["saved"] = {k: v.detach().cpu().clone() for k, v in average.items()}

    def on_train_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        for name in pl_module.trained:
            held = whole(trainer, pl_module, name)
            self.weights[name] = {k: v.clone() for k, v in held.items() if is_adapter(k)}
        average = fold(pl_module.student.ema.whole(), pl_module.student.ema.whole().state_dict())
        self.weights["average"] = {k: v.detach().cpu().clone() for k, v in average.items()}


def run(
    kind: str, world: int, base: Path, out: Path | None = None, save: Path | None = None, resume: Path | None = None
) -> dict[str, dict[str, Tensor]]:
    """Two iterations, or the second alone from a checkpoint."""
    found = Found(save)
    module = tiny_distill(
        str(base), checkpointing=True, lora=Lora(4, 6.0), iterations=2, student_lr=1e-3, critic_lr=1e-3,
        out=None if out is None else str(out),
    )  # fmt: skip
    trainer = pl.Trainer(
        accelerator="cpu", devices=world, strategy="auto" if world == 1 else strategy(kind), callbacks=[found],
        max_steps=-1, max_epochs=-1, logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False,
    )  # fmt: skip
    data = From(GLOBAL // world, 0 if resume is None else 1, flown=0)
    trainer.fit(module, datamodule=data, ckpt_path=resume, weights_only=False)
    return found.weights


def main(rank: int, world: int, out: Path, kinds: list[str]) -> None:
    torch.set_num_threads(1)
    base = out / "base.safetensors"
    runs = {}
    for kind in kinds:
        kept = out / f"{kind}.ckpt" if kind in RESUMED else None
        runs[kind] = run(kind, world, base, out / f"{kind}.safetensors", kept)
        if kept is not None:
            torch.save(runs[kind].pop("saved"), out / f"{kind}.saved.pt")
            runs[f"{kind} resumed"] = run(kind, world, base, resume=kept)
    torch.save(runs, out / f"rank{rank}.pt")


if __name__ == "__main__":
    os.environ["LOCAL_RANK"] = sys.argv[1]
    main(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]), sys.argv[4:])
