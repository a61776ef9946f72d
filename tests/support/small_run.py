"""The real stages at their smallest, as one process of a run: what it is, what it trains, and what it leaves behind."""

from __future__ import annotations

import hashlib
import io
import json
import os
import resource
import signal
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
from torch import Tensor

from adastate.distributed.fsdp_strategy import FsdpStrategy
from adastate.encoders import TinyCodec, TinyText
from adastate.optim.settings import AverageSettings, OptimizerSettings
from adastate.runtime import atomic_folder, signals
from adastate.training.initializations import TeacherForcing
from adastate.training.rollout_sampler import LongRollout
from adastate.training.teacher import Teacher
from adastate.types import Batch
from callbacks import Checkpoints, Preempt
from callbacks.checkpointing.checkpoints import at_boundary
from datamodules.clips import ShardData
from datamodules.prompts import PromptData
from datamodules.shards.shard_writer import ShardWriter
from tests.support.rig import WORDS, tiny_distill, tiny_student
from tests.support.tiny import GRID, SHAPE, SIZE


@dataclass(frozen=True)
class Plan:
    """What is run.

    Attributes:
        stage: `distill`, or one with one network and Lightning's own optimisation: `teacher`, `init`.
        strategy: `one` process; `ddp`, `fsdp2`, or a stage of ZeRO (`zero1`, `zero2`, `zero3`) on `world` processes.
        data: `prompts`, or `shards` with latents.
        workers: of the loader.
        iterations: of the whole run.
        every: iterations between checkpoints.
        long: of long tuning, `windows` or `streaming`, whose streams are part of the checkpoints; "" for none.
        full: rank whose disk is full in iteration 3.
        start: state to go on from, below the folder of checkpoints; "" for that of the newest whole one.
        parts: micro batches an iteration.
        ask: rank 0 is asked to stop at this place, counted from a start on: of those where Distill gives an iteration
            up, or of micro batches where Lightning optimises; -1 for never.
    """

    strategy: str = "one"
    world: int = 1
    stage: str = "distill"
    data: str = "prompts"
    workers: int = 0
    iterations: int = 8
    every: int = 1
    global_batch: int = 4
    long: str = ""
    full: int = -1
    start: str = ""
    parts: int = 1
    ask: int = -1


class Full(pl.Callback):
    """The system refuses this process files beyond a few kilobytes, for the length of one iteration."""

    def __init__(self) -> None:
        self.usual = resource.getrlimit(resource.RLIMIT_FSIZE)

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: Any, *_: Any) -> None:
        limit = 16384 if pl_module.iteration == 2 else self.usual[0]
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, self.usual[1]))


class Digest(pl.Callback):
    """Taken while the strategy still holds the weights: at the end, and with a `path` after every iteration too."""

    def __init__(self, path: Path | None = None) -> None:
        self.path, self.value, self.all = path, "", dict[int, str]()

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: Any, *_: Any) -> None:
        if self.path is not None and at_boundary(pl_module):
            self.all[pl_module.iteration] = digest(pl_module, trainer)

    def on_train_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        self.value = digest(pl_module, trainer)
        if self.path is not None:
            self.path.write_text(json.dumps(self.all))


class Ask(pl.Callback):
    """Sends this process a SIGTERM at one place, see Plan."""

    def __init__(self, place: int) -> None:
        self.left = place

    def on_train_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        if not pl_module.automatic_optimization:
            stop_if_asked = pl_module.updates.stop_if_asked
            pl_module.updates.stop_if_asked = lambda: (self.count(), stop_if_asked())

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: Any, *_: Any) -> None:
        if pl_module.automatic_optimization:
            self.count()

    def count(self) -> None:
        if self.left == 0:
            os.kill(os.getpid(), signal.SIGTERM)
        self.left -= 1


class Late(pl.Callback):
    """Counts the steps that begin after this rank has heard a signal."""

    def __init__(self, path: Path) -> None:
        self.path, self.steps = path, 0

    def on_train_batch_start(self, *_: Any) -> None:
        if signals.heard():
            self.steps += 1
            self.path.write_text(str(self.steps))


class Consumed(pl.Callback):
    """Writes down which samples every finished iteration used, a line each, so that a killed run leaves them."""

    def __init__(self, path: Path) -> None:
        self.path, self.waiting, self.last = path, list[int](), -1

    def on_train_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        self.last = pl_module.iteration

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: Any, batch: Batch, batch_idx: int) -> None:
        self.waiting += batch.index.tolist()

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: Any, *_: Any) -> None:
        if at_boundary(pl_module) and pl_module.iteration > self.last:
            self.last = pl_module.iteration
            with self.path.open("a") as file:
                file.write(json.dumps([pl_module.iteration, self.waiting]) + "\n")
            self.waiting = []


def train(plan: Plan, folder: Path, rank: int, port: int, every_digest: bool = False) -> None:
    """One process of the run; goes on from the newest whole checkpoint and leaves `done.<rank>` with a digest."""
    torch.set_num_threads(1)
    os.environ |= {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "NODE_RANK": "0",
        "LOCAL_RANK": str(rank),
        "DS_ACCELERATOR": "cpu",
    }
    warnings.filterwarnings("ignore")
    pl.seed_everything(0, verbose=False)
    module = network(plan)
    batch = plan.global_batch // plan.world // plan.parts
    data: pl.LightningDataModule
    if plan.data == "prompts":
        data = PromptData(batch=batch, workers=plan.workers, pairs=bool(plan.long))
    else:
        data = ShardData(str(folder.parent / "shards"), batch=batch, workers=plan.workers, seed=3)
    taken = Digest(folder / f"digests.{rank}" if every_digest else None)
    trainer = pl.Trainer(
        accelerator="cpu",
        devices=plan.world,
        strategy=strategy(plan),
        max_epochs=-1,
        accumulate_grad_batches=plan.parts if plan.stage != "distill" else 1,
        max_steps=plan.iterations if plan.stage != "distill" else -1,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
        callbacks=[
            Late(folder / f"late.{rank}"),
            Consumed(folder / f"consumed.{rank}"),
            taken,
            *([Full()] if rank == plan.full else []),
            *([Ask(plan.ask)] if rank == 0 else []),
            Preempt(),  # after those: it leaves by an exception
            Checkpoints(str(folder / "checkpoints"), every=plan.every, keep=2),
        ],
    )
    every = folder / "checkpoints"
    start = every / plan.start if plan.start else every if atomic_folder.folders(every) else None
    trainer.fit(module, datamodule=data, ckpt_path=start, weights_only=True if start else None)
    # Lightning ends a run that was killed after its last step without the hooks of an end.
    (folder / f"done.{rank}").write_text(taken.value or digest(module, trainer))


def network(plan: Plan) -> Any:
    if plan.stage == "teacher":
        torch.manual_seed(1)
        codec, text = (
            TinyCodec(None, width=4, channels=SIZE.channels, group=2),
            TinyText(SIZE.text_tokens, SIZE.text_width),
        )
        return Teacher(
            SIZE,
            codec=codec,
            text=text,
            latent_size=GRID,
            rollout_frames=6,
            optimizer=OptimizerSettings(1e-3, warmup=1),
            average=AverageSettings(0.9, warmup=True),
        )
    if plan.stage == "init":
        return tiny_student(init={"init": TeacherForcing(), "lr": 1e-3, "warmup": 1, "decay": 0.9})
    long = {"long_rollout": LongRollout(12, plan.long), "prompt_switch_prob": 0.5} if plan.long else {}
    return tiny_distill(iterations=plan.iterations, student_every=2, global_batch=plan.global_batch, **long)


def make_shards(folder: Path, clips: int = 40) -> None:
    """Shards of clips of random latents, for the data `shards`."""
    writer = ShardWriter(folder / "shards", per_shard=7)
    for i in range(clips):
        latents, file = torch.randn(6, *SHAPE, generator=torch.Generator().manual_seed(i)), io.BytesIO()
        np.save(file, latents.numpy().astype(np.float16))
        words = f"{WORDS[i % 8]} {WORDS[(3 * i + 1) % 8]}".encode()
        writer.add(f"{i:05d}", {"latent.npy": file.getvalue(), "txt": words, "json": b"{}"})
    writer.close()


def strategy(plan: Plan) -> Any:
    if plan.strategy == "one":
        return "auto"
    if plan.strategy == "ddp":
        return "ddp_find_unused_parameters_true"
    if plan.strategy == "fsdp2":
        return FsdpStrategy()
    from adastate.distributed import ZeroStrategy

    return ZeroStrategy(stage=int(plan.strategy.removeprefix("zero")))


def digest(module: Any, trainer: pl.Trainer) -> str:
    """Of weights, averages, optimisers, counters, the guard and the place in the data; all ranks call it."""
    if hasattr(trainer.strategy, "whole_weights"):
        tensors: list[Tensor] = []
        for name in module.trained:
            tensors += [v for _, v in sorted(trainer.strategy.whole_weights(name).items())]
        tensors += list(getattr(module, "student", module).ema.whole().state_dict().values())
    else:
        tensors = [v for _, v in sorted(module.state_dict().items()) if isinstance(v, Tensor)]
        for optimizer in trainer.optimizers:
            for _, state in sorted(optimizer.state_dict()["state"].items()):  # as ranks may hold them in any order
                tensors += [v for _, v in sorted(state.items()) if isinstance(v, Tensor)]
    made = hashlib.sha256()
    for tensor in (t.full_tensor() if hasattr(t, "full_tensor") else t for t in tensors):
        made.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    made.update(json.dumps([module.iteration, getattr(module, "student", module).ema.updates]).encode())
    made.update(json.dumps(trainer.datamodule.state_dict(), sort_keys=True).encode())
    if hasattr(module, "guard"):
        made.update(json.dumps(module.guard.state_dict()).encode())
    return made.hexdigest()
