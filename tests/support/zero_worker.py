"""One process of tests/distributed/test_zero.py: `python -m tests.support.zero_worker SWEEP RANK WORLD OUT` runs
strategies in turn.

One launch for all of a sweep, because importing and meeting each other costs more than the runs. What is found out is
saved to OUT/rank<RANK>.pt, by strategy.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from adastate.distributed.fsdp_strategy import FsdpStrategy
from adastate.distributed.protocol import steps_of
from adastate.encoders import TinyCodec, TinyText
from adastate.models.video_network import Size
from adastate.optim.settings import AverageSettings
from adastate.runtime.ranks import sample_rank
from adastate.training.critic import Critic
from adastate.training.distill import Distill
from adastate.training.objectives import DMD
from adastate.training.student import Student
from adastate.training.teacher import Teacher
from tests.support.rig import DISTILL_BLOCKS, Prompts, Rows, Steered, grouped
from tests.support.tiny import randomise, spec

NET = Size(
    width=16, layers=1, heads=2, ffn=32, channels=2, text_width=8, text_tokens=2, time_embedding_dim=8, actions=3
)
CLIP = 0.2
"""Below the first norms, so that clipping is part of what is compared."""

KINDS: dict[str, dict[str, Any]] = {
    "ddp": {},
    "zero1": {"stage": 1},
    "zero2": {"stage": 2},
    "zero2_offload": {"stage": 2, "offload_optimizer": "cpu"},
    "zero3": {"stage": 3},
    "zero3_teacher": {"stage": 3, "shard_frozen": True},
    "zero3_offload": {"stage": 3, "offload_optimizer": "cpu", "offload_parameters": "cpu"},
    "fsdp2": {},
}


@dataclass(frozen=True)
class Sweep:
    """What is run.

    Attributes:
        long: strategies beside DDP for all `steps`, of which `saving` leave a checkpoint after `saved`.
        short: for four steps.
        parts: with two micro batches an iteration.
        forbidden: with a guard that forbids updates.
        half: in bfloat16.
        changes: (strategy that saves, strategy that goes on), with two processes.
        alone: the same, and one process goes on.
    """

    steps: int
    saved: int
    long: tuple[str, ...]
    saving: tuple[str, ...]
    parts: tuple[str, ...]
    forbidden: tuple[str, ...]
    half: tuple[str, ...]
    changes: tuple[tuple[str, str], ...]
    alone: tuple[tuple[str, str], ...] = ()
    short: tuple[str, ...] = ()


EVERY = Sweep(
    steps=30, saved=26, long=("zero1", "zero2", "zero3", "zero3_teacher", "fsdp2"),
    saving=("zero1", "zero2", "zero3", "fsdp2"), parts=("zero1", "zero2", "zero3_teacher"),
    forbidden=("zero1", "zero2", "zero2_offload", "zero3", "zero3_offload", "fsdp2"), half=("zero1", "zero2", "zero3"),
    changes=(("zero1", "zero2"), ("zero2", "zero3"), ("zero3", "fsdp2")),
    alone=(*((k, k) for k in ("zero1", "zero2", "zero3", "fsdp2")), ("zero1", "zero3")),
    short=("zero2_offload", "zero3_offload"),
)  # fmt: skip
SMALL = {"zero_optimization": {"reduce_bucket_size": 4096, "stage3_param_persistence_threshold": 0}}
"""Several buckets, and every weight in pieces, down to the biases."""

Weights = dict[str, Tensor]


def strategy(kind: str) -> Any:
    if kind == "ddp":
        return "ddp_find_unused_parameters_true"
    if kind == "fsdp2":
        return FsdpStrategy()
    from adastate.distributed import ZeroStrategy

    return ZeroStrategy(**KINDS[kind], config=SMALL)


def small_distill(**kwargs: Any) -> Distill:
    """Two chunks of two frames, with checkpointing and schedules."""
    torch.manual_seed(0)
    codec, text = TinyCodec(None, width=4, channels=NET.channels, group=2), TinyText(NET.text_tokens, NET.text_width)
    student = Student(
        NET,
        codec,
        text,
        spec(chunk_frames=2, past_frames=2),
        (2, 4),
        rollout_frames=4,
        average=AverageSettings(0.9),
        checkpointing=True,
    )
    teacher, critic = Teacher(NET, latent_size=(2, 4), average=None), Critic(NET, checkpointing=True)
    for seed, net in enumerate((student.net, teacher.net, critic.net)):
        randomise(net, seed)
    student.ema.net.load_state_dict(student.net.state_dict())
    options: dict[str, Any] = {
        "global_batch": 4, "student_every": 3, "student_lr": 1e-3, "critic_lr": 2e-3, "gradient_clip_norm": CLIP,
        "critic_warmup": 4, "student_warmup": 2, **kwargs,
    }  # fmt: skip
    return Distill(teacher, student, critic, DMD(), **grouped(options, DISTILL_BLOCKS))


class From(Prompts):
    """Goes on after `done` micro batches, as a loader does that is resumed; `flown` as in Prompts."""

    def __init__(self, batch: int, done: int = 0, flown: int = 4) -> None:
        super().__init__(batch, flown=flown)
        self.done = done

    def train_dataloader(self) -> DataLoader[Any]:
        assert self.trainer is not None
        mine = sample_rank(self.trainer)
        rows = Rows(self.batch, mine.world, mine.rank, False)
        done = self.done

        class Rest(Rows):
            def __iter__(self) -> Iterator[Any]:
                for i, batch in enumerate(Rows.__iter__(rows)):
                    if i >= done:
                        yield batch

        rest = Rest(rows.batch, rows.world, rows.rank, False)
        return DataLoader(Steered(rest, self.flown) if self.flown else rest, batch_size=None)


def whole(trainer: pl.Trainer, module: Distill, name: str) -> Weights:
    """Copies of the float32 weights of a trained network; all ranks call it."""
    if hasattr(trainer.strategy, "whole_weights"):
        return {k: v.cpu() for k, v in trainer.strategy.whole_weights(name).items()}
    state = module.trained[name].net.state_dict()
    return {k: (v.full_tensor() if hasattr(v, "full_tensor") else v).detach().clone() for k, v in state.items()}


def gradient(p: nn.Parameter) -> Tensor:
    """The reduced gradient of one parameter, whole."""
    if hasattr(p, "ds_id") or hasattr(p, "_hp_mapping"):
        from deepspeed.utils import safe_get_full_grad

        return safe_get_full_grad(p).detach().clone()
    return (p.grad.full_tensor() if hasattr(p.grad, "full_tensor") else p.grad).detach().clone()


class Notes(pl.Callback):
    """Losses and norms of every iteration, the first gradient of each network, and a full average beside the real."""

    def __init__(self) -> None:
        self.curve: list[dict[str, float]] = []
        self.gradients: dict[str, Weights] = {}
        self.reference: Weights = {}
        self.weights: dict[str, Weights] = {}
        self.rates: list[list[float]] = []

    def on_train_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        self.reference = {k: v.cpu().clone() for k, v in pl_module.student.ema.whole().state_dict().items()}

    def on_before_optimizer_step(self, trainer: pl.Trainer, pl_module: Any, optimizer: Any) -> None:
        asked = getattr(optimizer, "_optimizer", optimizer)
        (name,) = (n for n, held in zip(pl_module.trained, trainer.strategy.optimizers, strict=True) if held is asked)
        if name in self.gradients:
            return
        found = {k: gradient(p) for k, p in pl_module.trained[name].net.named_parameters()}
        if steps_of(trainer.strategy).one_backward_per_batch:  # an engine clips in its step, which is to come
            norm = torch.stack([g.norm() for g in found.values()]).norm()
            found = {k: g * (CLIP / (norm + 1e-6)).clamp(max=1) for k, g in found.items()}
        self.gradients[name] = found

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: Any, *_: Any) -> None:
        wanted = ("student/loss", "student/gradient_norm", "critic/loss", "critic/gradient_norm")
        self.curve.append({k: float(v) for k, v in trainer.callback_metrics.items() if k in wanted})
        self.rates.append([o.param_groups[0]["lr"] for o in trainer.strategy.optimizers])
        if (pl_module.iteration - 1) % pl_module.schedule.student_every == 0:
            for k, v in whole(trainer, pl_module, "student").items():
                self.reference[k].lerp_(v, 0.1)

    def on_train_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        self.weights = {name: whole(trainer, pl_module, name) for name in pl_module.trained}
        average = pl_module.student.ema.whole().state_dict()
        self.weights["student_average"] = {k: v.cpu().clone() for k, v in average.items()}


class Save(pl.Callback):
    def __init__(self, path: Path, after: int) -> None:
        self.path, self.after = path, after

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: Any, *_: Any) -> None:
        if pl_module.iteration == self.after:
            trainer.save_checkpoint(self.path)
            saved = {name: whole(trainer, pl_module, name) for name in pl_module.trained}
            average = {k: v.cpu() for k, v in pl_module.student.ema.whole().state_dict().items()}
            if trainer.is_global_zero:
                torch.save({**saved, "student_average": average}, self.path / "whole.pt")


def run(
    kind: str, iterations: int, batch: int = 2, resume: Path | None = None, done: int = 0, save: Save | None = None,
    precision: str = "32-true", world: int = 2, forbid: set[int] | None = None, **kwargs: Any,
) -> dict[str, Any]:  # fmt: skip
    notes, began = Notes(), time.monotonic()
    trainer = pl.Trainer(
        accelerator="cpu", devices=world, strategy=strategy(kind), precision=precision, callbacks=[notes],
        max_steps=-1, max_epochs=-1, logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False,
    )  # fmt: skip
    module = small_distill(iterations=iterations, **kwargs)
    if forbid:
        trainer.callbacks.append(Forbid(forbid))  # type: ignore[attr-defined]
    if save is not None:
        trainer.callbacks.append(save)  # type: ignore[attr-defined]
    trainer.fit(module, datamodule=From(batch, done), ckpt_path=resume, weights_only=False)
    return {
        "curve": notes.curve, "gradients": notes.gradients, "reference": notes.reference, "weights": notes.weights,
        "rates": notes.rates, "iteration": module.iteration, "updates": module.student.ema.updates,
        "seconds": time.monotonic() - began,
    }  # fmt: skip


class Forbid(pl.Callback):
    """Has the module's guard forbid its n-th looks: a loss between two backward passes, and a gradient norm."""

    def __init__(self, looks: set[int]) -> None:
        self.looks, self.count = looks, 0

    def on_train_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        pl_module.guard.check = self.check

    def check(self, values: dict[str, float]) -> str:
        self.count += 1
        return f"forbidden: {values}" if self.count - 1 in self.looks else ""


def told(kind: str, **kwargs: Any) -> str:
    """What a run that must not begin, or not go on, says."""
    try:
        run(kind, 2, **kwargs)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return "nothing"


def main(rank: int, world: int, out: Path) -> None:
    torch.set_num_threads(1)
    found: dict[str, Any] = {}
    if world == 1:  # what two processes saved
        for was, now in EVERY.alone:
            found[f"{was} to {now}"] = run(now, EVERY.steps, resume=out / was, done=EVERY.saved, world=1, batch=4)
        torch.save(found, out / "alone.pt")
        return
    for kind in ("ddp", *EVERY.long, *EVERY.short):
        save = Save(out / kind, EVERY.saved) if kind in EVERY.saving else None
        found[kind] = run(kind, 4 if kind in EVERY.short else EVERY.steps, save=save)
    for kind in ("ddp", *EVERY.parts):
        found[f"{kind} in parts"] = run(kind, 1, batch=1)
    for kind in ("ddp", *EVERY.forbidden):
        found[f"{kind} forbidden"] = run(kind, 4, batch=1, forbid={7, 10})
    for kind in EVERY.saving:
        found[f"{kind} resumed"] = run(kind, EVERY.steps, resume=out / kind, done=EVERY.saved)
    for kind in EVERY.half:
        found[f"{kind} bf16"] = run(kind, 2, precision="bf16-mixed")
    for was, now in EVERY.changes:
        found[f"{was} to {now}"] = run(now, EVERY.steps, resume=out / was, done=EVERY.saved)
    found["no checkpoint"] = told("zero2", resume=out / "nowhere")
    found["unknown precision"] = told("zero2", precision="bf16-true")
    found["ranks differ"] = told("zero3", seed=rank)
    torch.save(found, out / f"rank{rank}.pt")


if __name__ == "__main__":
    os.environ["LOCAL_RANK"] = sys.argv[1]
    main(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))
