"""One process of tests/distributed/test_shared_samples.py: `python -m tests.support.sequence_worker RANK WORLD OUT`
runs networks, streams and stages with samples shared by ranks; with WORLD 1 the same stages alone.

One launch for all, because importing and meeting each other costs more than the runs. OUT/<WORLD>-<RANK>.pt holds what
was found out, by name: relative distances and bytes, and of stages losses, gradients and weights.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor, distributed
from torch.utils.data import DataLoader

from adastate.config import systems
from adastate.distributed.ddp_strategy import DdpStrategy
from adastate.distributed.fsdp_strategy import FsdpStrategy
from adastate.distributed.protocol import steps_of
from adastate.distributed.sequence_split import make_split, split_networks
from adastate.encoders import TinyText
from adastate.models.masks import block_causal
from adastate.models.video_network import VideoNetwork
from adastate.optim.settings import AverageSettings, OptimizerSettings
from adastate.stream import StateCache
from adastate.stream.rollout import rollout
from adastate.training.initializations import DiffusionForcing, OdeRegression, TeacherForcing
from adastate.training.objectives import SID
from adastate.training.prompted_network import PromptedNetwork
from adastate.training.rollout_sampler import LongRollout
from adastate.training.teacher import Teacher
from tests.support import rig
from tests.support.rig import Rows, tiny_distill, tiny_student
from tests.support.tiny import SIZE, STAIRS, Drawn, normal, random_net, randomise
from tests.support.zero_worker import From, gradient

GRID = (4, 8)
"""Latents of 2 x 4 tokens a frame, for four ranks."""

CLIP = 0.5
"""Below most norms, so that clipping is part of what is compared."""

Weights = dict[str, Tensor]


def relative(a: Tensor, b: Tensor) -> float:
    return float((a - b).norm() / b.norm())


def flat(weights: Weights) -> Tensor:
    return torch.cat([weights[k].flatten() for k in sorted(weights)])


def reduced(net: VideoNetwork) -> Weights:
    """Gradients as every strategy reduces them, the mean over ranks."""
    found = {k: p.grad.clone() for k, p in net.named_parameters() if p.grad is not None}
    for g in found.values():
        distributed.all_reduce(g)
        g /= distributed.get_world_size()
    return found


def networks(world: int) -> tuple[VideoNetwork, VideoNetwork]:
    """One that runs alone, and the same over all ranks."""
    alone, shared = random_net(replace(SIZE, actions=2)), random_net(replace(SIZE, actions=2))
    split_networks([shared], make_split(world))
    return alone, shared


def clips(world: int) -> dict[str, Any]:
    """Flows, and gradients of weights and of the input, of whole clips."""
    alone, shared = networks(world)
    text, t, actions = normal(2, 4, 16, seed=7), torch.tensor([300.0, 700.0]), normal(2, 6, 3, seed=9)
    found = {}
    for name, options in {
        "clip": {}, "causal": {"visible": block_causal(6, 3)}, "steered": {"actions": actions},
    }.items():  # fmt: skip
        for checkpointing in (False, True):
            seen = []
            for net in (alone, shared):
                net.zero_grad()
                net.checkpointing = checkpointing
                x = normal(2, 6, 4, *GRID, seed=3).requires_grad_()
                flow = net(x, t, text, **options)
                (flow * normal(*flow.shape, seed=5)).sum().backward()
                seen.append((flow.detach(), x.grad))
            mine = {k: p.grad for k, p in alone.named_parameters() if p.grad is not None}
            distributed.all_reduce(seen[1][1])
            found[f"{name} checkpointing={checkpointing}"] = {
                "flow": relative(seen[1][0], seen[0][0]),
                "gradient": relative(flat(reduced(shared)), flat(mine)),
                "of the input": relative(seen[1][1] / world, seen[0][1]),
            }
    return found


def streams(world: int) -> dict[str, Any]:
    """Every system's stream, by the fused passes without gradient in a slab and by the plain network."""
    alone, shared = networks(world)
    text, found = normal(1, 4, 16, seed=7), {}
    for name in systems.system_names():
        spec = systems.read_system(name, 3).spec
        for kind, layers, fast in (("slab", SIZE.layers, True), ("tensors", None, False)):
            seen, held = [], []
            for net in (alone, shared):
                cache = StateCache(spec, None, layers)
                with torch.no_grad():
                    passes = PromptedNetwork(net, text, fast)
                    seen.append([c.content for c in rollout(passes, Drawn(0), cache, 5, (4, *GRID))])
                held.append(cache.bytes)
            found[f"{name} {kind}"] = {
                "stream": relative(torch.cat(seen[1], 1), torch.cat(seen[0], 1)),
                "bytes": (held[1] * world, held[0]),
            }
    return found


# ---- stages


@dataclass(frozen=True)
class Case:
    """A stage.

    Attributes:
        stage: `teacher`, `init` or `distill`.
        strategy: with which ranks run it.
        options: of tiny_distill, or of the student's initialisation.
        iterations: of the run.
    """

    stage: str
    strategy: str
    options: dict[str, Any] = field(default_factory=dict)
    iterations: int = 2


CASES = {
    "teacher fsdp2": Case("teacher", "fsdp2"),
    "teacher zero2": Case("teacher", "zero2"),
    "ode": Case("init", "ddp", {"init": OdeRegression()}),
    "teacher forcing": Case("init", "zero2", {"init": TeacherForcing("last")}),
    "diffusion forcing": Case("init", "fsdp2", {"init": DiffusionForcing()}),
    "distill": Case("distill", "zero2", {"checkpointing": True}),
    "distill with a loss of states": Case("distill", "zero3_teacher", {"state_loss": "dmd", "checkpointing": True}),
    "straight through": Case("distill", "ddp", {"stream": {"cache_grad": "straight_through"}}),
    "through states": Case("distill", "zero2", {"stream": {"state_grad": 1}, "checkpointing": True}),
    "sid": Case("distill", "ddp", {"objective": SID}),
    "replayed": Case("distill", "ddp", {"replay": True}),
    "rolling": Case("distill", "zero2", {"stream": STAIRS}),
    "windows": Case("distill", "ddp", {"long_rollout": LongRollout(12)}),
    "streaming": Case("distill", "zero2", {"long_rollout": LongRollout(12, "streaming")}, 4),
    "through states fsdp2": Case("distill", "fsdp2", {"stream": {"state_grad": 1}, "checkpointing": True}),
}
RESUMED = {"distill": 1, "streaming": 2}
"""Cases that are saved after so many iterations, for other degrees to go on with."""


class Clips(From):
    """Latents and paths beside the prompts, by sample number."""

    def train_dataloader(self) -> DataLoader[Any]:
        rows = super().train_dataloader().dataset
        levels = torch.tensor([1000.0, 833.333, 400.0, 0.0])

        class Filled(Rows):
            def __iter__(self) -> Iterator[Any]:
                for batch in rows:
                    each = [normal(6, SIZE.channels, *GRID, seed=int(i)) for i in batch.index]
                    paths = [normal(4, 6, SIZE.channels, *GRID, seed=100 + int(i)) for i in batch.index]
                    yield replace(batch, latents=torch.stack(each), trajectory=torch.stack(paths), levels=levels)

        return DataLoader(Filled(self.batch, 1, 0, False), batch_size=None)


def module(case: Case) -> Any:
    rig.GRID = GRID
    learn = OptimizerSettings(1e-3, warmup=1, gradient_clip_norm=CLIP)
    if case.stage == "teacher":
        torch.manual_seed(0)
        text = TinyText(SIZE.text_tokens, SIZE.text_width)
        made = Teacher(SIZE, None, text, GRID, 6, optimizer=learn, average=AverageSettings(0.9))
        randomise(made.net, 3)
        return made
    if case.stage == "init":
        return tiny_student(init={**case.options, "optimizer": learn})
    options = {"student_every": 1, "gradient_clip_norm": CLIP, **case.options}
    return tiny_distill(iterations=case.iterations, **options)


class Seen(pl.Callback):
    """Losses and norms of every iteration, the first gradients, and the weights in the end."""

    def __init__(self, save: Path | None, after: int) -> None:
        self.save, self.after = save, after
        self.curve: list[dict[str, float]] = []
        self.gradients: list[Weights] = []
        self.average: Weights = {}

    def on_before_optimizer_step(self, trainer: pl.Trainer, pl_module: Any, optimizer: Any) -> None:
        if len(self.gradients) < len(pl_module.trained):
            asked = getattr(optimizer, "_optimizer", optimizer)
            at = [held is asked for held in trainer.strategy.optimizers].index(True)
            net = [*pl_module.trained.values()][at].net
            found = {k: gradient(p) for k, p in net.named_parameters() if _has(p)}
            manual = not pl_module.automatic_optimization
            if manual and steps_of(trainer.strategy).one_backward_per_batch:  # an engine clips later, in its step
                found = {k: g * (CLIP / flat(found).norm()).clamp(max=1) for k, g in found.items()}
            self.gradients.append(found)

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: Any, *_: Any) -> None:
        self.curve.append({k: float(v) for k, v in trainer.callback_metrics.items() if "loss" in k or "norm" in k})
        if self.save is not None and pl_module.iteration == self.after:
            trainer.save_checkpoint(self.save)

    def on_train_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        average = getattr(pl_module, "student", pl_module).ema.whole()
        self.average = {k: v.detach().float().clone() for k, v in average.state_dict().items()}


def _has(p: Any) -> bool:
    """Whether it has a gradient, which with an engine all ranks ask for together."""
    return p.grad is not None or hasattr(p, "ds_id") or hasattr(p, "_hp_mapping")


def strategy(kind: str, degree: int) -> Any:
    if kind == "ddp":
        return DdpStrategy(degree)
    if kind == "fsdp2":
        return FsdpStrategy(degree)
    from adastate.distributed import ZeroStrategy

    config = {"zero_optimization": {"reduce_bucket_size": 4096, "stage3_param_persistence_threshold": 0}}
    stage: Any = int(kind[4])
    return ZeroStrategy(stage, kind.endswith("teacher"), config=config, sequence_parallel=degree)


def run(case: Case, world: int, degree: int, save: Path | None = None, after: int = 0, done: bool = False) -> Any:
    """A stage, from the beginning, or from the checkpoint `save` if that is `done`."""
    seen = Seen(None if done else save, after)
    trainer = pl.Trainer(
        accelerator="cpu", devices=world, strategy=strategy(case.strategy, degree) if world > 1 or done else "auto",
        max_steps=-1 if case.stage == "distill" else case.iterations, max_epochs=-1, callbacks=[seen], logger=False,
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    data = (From if case.stage == "distill" else Clips)(4 * degree // world, after if done else 0, 0)
    trainer.fit(module(case), datamodule=data, ckpt_path=save if done else None, weights_only=False)
    return {"curve": seen.curve, "gradients": seen.gradients, "average": seen.average}


def degrees(world: int) -> Iterator[tuple[str, int]]:
    """Of two ranks both share a sample; of four, two or all do, by turns, and all where a run of two goes on."""
    for i, name in enumerate(CASES):
        yield name, 2 if world == 2 or (world == 4 and i % 2 and name not in RESUMED) else world


def main(rank: int, world: int, out: Path, names: list[str]) -> None:
    torch.set_num_threads(1)
    found: dict[str, Any] = {}
    for name, degree in degrees(world):
        if names and name not in names:
            continue
        saved = out / f"{name} saved"
        found[name] = run(CASES[name], world, degree, saved if world == 2 else None, RESUMED.get(name, -1))
        if name in RESUMED and world != 2 and saved.exists():
            found[f"{name} resumed"] = run(CASES[name], world, degree, saved, RESUMED[name], done=True)
    if world > 1 and not names:
        found |= {"clips": clips(world), "streams": streams(world)}
    torch.save(found, out / f"{world}-{rank}.pt")


if __name__ == "__main__":
    os.environ["LOCAL_RANK"] = sys.argv[1]
    main(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]), sys.argv[4:])
