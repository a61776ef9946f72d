"""The three networks at their smallest, and a Trainer that runs them in a second."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from dataclasses import fields, replace
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset

from adastate.encoders import TinyCodec, TinyText
from adastate.optim.settings import AverageSettings, DistillOptimizer, OptimizerSettings
from adastate.runtime.ranks import sample_rank
from adastate.stream import Exits, StateCache
from adastate.stream.passes import Noise
from adastate.stream.rollout import rollout
from adastate.training.critic import Critic
from adastate.training.distill import Distill, UpdateSchedule
from adastate.training.initializations import OdeRegression
from adastate.training.objectives import DMD
from adastate.training.prompted_network import PromptedNetwork
from adastate.training.rollout_sampler import RolloutSettings
from adastate.training.student import Student
from adastate.training.teacher import Teacher
from adastate.types import Batch, Chunk
from tests.support.tiny import GRID, SHAPE, SIZE, normal, randomise, spec

INIT_OPTIMIZER = OptimizerSettings(lr=1e-4, warmup=20, lr_decay_fraction=0.4)
DISTILL_BLOCKS = {"schedule": UpdateSchedule(), "rollouts": RolloutSettings(), "optimizer": DistillOptimizer()}

WORDS = ("red", "fast", "north", "ball", "plain", "slow", "snow", "lava")


def tiny_student(
    seed: int = 2, checkpointing: bool = False, init: dict[str, Any] | None = None, actions: int = 0, **stream: Any
) -> Student:
    """Six frames of horizon: two chunks of three, or six of one."""
    torch.manual_seed(seed)
    codec = TinyCodec(None, width=4, channels=SIZE.channels, group=2)
    text = TinyText(SIZE.text_tokens, SIZE.text_width)
    size = replace(SIZE, actions=actions)
    options = grouped(
        {"init": OdeRegression(), **(init or {})}, {"optimizer": INIT_OPTIMIZER, "average": AverageSettings()}
    )
    made = Student(size, codec, text, spec(**stream), GRID, rollout_frames=6, checkpointing=checkpointing, **options)
    randomise(made.net, seed)
    made.ema.net.load_state_dict(made.net.state_dict())
    return made


def rolled_out(
    student: Student,
    text: Tensor,
    noise: Noise,
    frames: int,
    exits: Exits = Exits(),  # noqa: B008 - frozen
) -> list[Chunk]:
    """A training rollout of a student from its beginning, with gradient."""
    network, chunks = PromptedNetwork(student.net, text), student.spec.chunks(frames)
    return list(rollout(network, noise, StateCache(student.spec), chunks, student.latent_shape, exits, True, False))


def grouped(options: Mapping[str, Any], blocks: Mapping[str, Any]) -> dict[str, Any]:
    """Flat options by the block that has a field of their name: {"lr": 1} is {"optimizer": OptimizerSettings(lr=1)}."""
    rest, made = dict(options), {}
    for name, block in blocks.items():
        made[name] = replace(block, **{f.name: rest.pop(f.name) for f in fields(block) if f.name in rest})
    return {**made, **rest}


def tiny_distill(
    stream: dict[str, Any] | None = None,
    checkpointing: bool = False,
    actions: int = 0,
    objective: Any = DMD,
    **kwargs: Any,
) -> Distill:
    """Arguments of Distill, of its blocks and of the objective's class, all by their own names."""
    student = tiny_student(checkpointing=checkpointing, actions=actions, **(stream or {}))
    torch.manual_seed(1)
    size = replace(SIZE, actions=actions)
    teacher, critic = Teacher(size, latent_size=GRID, average=None), Critic(size, checkpointing=checkpointing)
    randomise(teacher.net, 3), randomise(critic.net, 4)
    options = {"iterations": 1, "global_batch": 4, "student_lr": 1e-3, "critic_lr": 1e-3, **kwargs}
    told = {name: options.pop(name) for name in inspect.signature(objective).parameters if name in options}
    return Distill(teacher, student, critic, objective(**told), **grouped(options, DISTILL_BLOCKS))


class Rows(IterableDataset[Batch]):
    """Prompts without end; rank r takes rows r * batch, ... of every global batch. `per_rank` forgets the rank."""

    def __init__(self, batch: int, world: int, rank: int, per_rank: bool) -> None:
        self.batch, self.world, self.rank, self.per_rank = batch, world, rank, per_rank

    def __iter__(self) -> Iterator[Batch]:
        for step in range(64):
            first = (step * self.world + self.rank) * self.batch
            rows = range(first, first + self.batch)
            index = torch.arange(self.batch) if self.per_rank else torch.tensor(rows)
            yield Batch(index, [f"{WORDS[i % 8]} {WORDS[(3 * i + 1) % 8]}" for i in rows])


class Steered(IterableDataset[Batch]):
    """The batches of `rows` with three actions for each of `frames` frames, by sample number."""

    def __init__(self, rows: Rows, frames: int) -> None:
        self.rows, self.frames = rows, frames

    def __iter__(self) -> Iterator[Batch]:
        for batch in self.rows:
            flown = [(normal(self.frames, 3, seed=int(i)) > 0).float() for i in batch.index]
            yield replace(batch, actions=torch.stack(flown))


class Prompts(pl.LightningDataModule):
    """`flown`: frames for which there are actions; 0: there are none."""

    def __init__(self, batch: int = 4, per_rank: bool = False, flown: int = 0) -> None:
        super().__init__()
        self.batch, self.per_rank, self.flown = batch, per_rank, flown

    def train_dataloader(self) -> DataLoader[Batch]:
        assert self.trainer is not None
        mine = sample_rank(self.trainer)
        rows = Rows(self.batch, mine.world, mine.rank, self.per_rank)
        return DataLoader(Steered(rows, self.flown) if self.flown else rows, batch_size=None)


class Gradients(pl.Callback):
    """Notes every optimiser's step: (its gradients by name, the names of all parameters that have one)."""

    def __init__(self) -> None:
        self.steps: list[tuple[dict[str, Tensor], set[str]]] = []

    def on_before_optimizer_step(
        self, trainer: pl.Trainer, pl_module: nn.Module, optimizer: torch.optim.Optimizer
    ) -> None:
        mine = {id(p) for group in optimizer.param_groups for p in group["params"]}
        named = [(n, p) for n, p in pl_module.named_parameters() if p.grad is not None]
        self.steps.append(({n: p.grad.clone() for n, p in named if id(p) in mine}, {n for n, _ in named}))


def distance(a: dict[str, Tensor], b: dict[str, Tensor]) -> float:
    """The largest relative distance of any parameter's gradient. What is below a percent of the whole counts as that:
    the bias of a key hardly matters to a softmax, and its gradient is mostly rounding."""
    assert a.keys() == b.keys()
    whole = float(torch.stack([g.norm() for g in b.values()]).norm())
    return max(float((a[k] - b[k]).norm() / (b[k].norm() + 0.01 * whole)) for k in b)


def fit(module: pl.LightningModule, data: pl.LightningDataModule, *callbacks: pl.Callback, **kwargs: Any) -> pl.Trainer:
    options: dict[str, Any] = {"devices": 1, "max_steps": -1, "max_epochs": -1, **kwargs}
    trainer = pl.Trainer(
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=list(callbacks),
        **options,
    )
    trainer.fit(module, datamodule=data)
    return trainer


Weights = dict[str, Tensor]


def weights(net: nn.Module) -> Weights:
    return {k: v.detach().clone() for k, v in net.state_dict().items()}


def changed(net: nn.Module, before: Weights) -> list[bool]:
    return [not torch.equal(v, before[k]) for k, v in net.state_dict().items()]


def gradients_of(
    steps: int = 1, stream: dict[str, Any] | None = None, data: Prompts | None = None, **options: Any
) -> list[dict[str, Tensor]]:
    seen = Gradients()
    small = {"student_lr": 2e-6, "critic_lr": 2e-6, "iterations": steps, "student_every": 1}
    fit(tiny_distill(stream, **small, **options), data or Prompts(), seen)
    return [gradient for gradient, _ in seen.steps]


class Pictures(nn.Module):
    """A codec whose first latent is one picture and every other three."""

    channels, scale, fps = SIZE.channels, 1, 8

    def video_frames(self, frames: int) -> int:
        return 3 * frames - 2

    def decode(self, latents: Tensor) -> Tensor:
        return latents[:, :1, :3]

    def encode(self, video: Tensor) -> Tensor:
        return torch.full((len(video), 1, *SHAPE), 7.0)
