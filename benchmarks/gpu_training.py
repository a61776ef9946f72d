"""Phase of `make gpu-check`: one iteration of the distillation at 1.3B, its memory and seconds, and the cost of
determinism."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from adastate.models import attention
from adastate.models.video_network import Size
from adastate.optim.settings import AverageSettings
from adastate.stream import StreamSpec
from adastate.training.critic import Critic
from adastate.training.distill import Distill, UpdateSchedule
from adastate.training.objectives import DMD
from adastate.training.student import Student
from adastate.training.teacher import Teacher
from adastate.types import Batch
from benchmarks.clock import DeviceClock
from benchmarks.gpu_report import PhaseReport
from benchmarks.shapes import SHAPES

BYTES = 56
"""Bytes per parameter of one network in an iteration, generously: three networks, two optimisers, an average."""


class RandomText:
    """Random embeddings that depend only on the prompts' numbers."""

    def __init__(self, size: Size) -> None:
        self.shape = (size.text_tokens, size.text_width)

    def embed(self, prompts: list[str]) -> Tensor:
        return torch.randn(len(prompts), *self.shape, generator=torch.Generator().manual_seed(len(prompts)))


class NoCodec:
    """Placeholder where no pixels are needed."""

    channels, scale, fps = 16, 8, 16

    def video_frames(self, frames: int) -> int:
        return 4 * frames - 3

    def decode(self, latents: Tensor) -> Tensor:
        raise RuntimeError("this run has no rewards, and decodes nothing")


def training(report: PhaseReport, seconds: float) -> None:
    """An iteration of both networks after a warm-up iteration; then one with torch's deterministic algorithms."""
    began, device = time.perf_counter(), report.device
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    report.fact(attention=attention.use("auto"))
    size, latent, frames = _fitting(report)
    torch.manual_seed(0)
    with torch.device(device):
        module = build_distillation(size, latent, frames)
    module.to(device)
    still = _allocated(device)
    report.fact(layers=size.layers, frames=frames, still_gib=still)
    mixed = torch.autocast(device, torch.bfloat16, cache_enabled=False) if device == "cuda" else nullcontext()
    for name in ("warm-up", "iteration", "deterministic"):
        if time.perf_counter() - began > 0.8 * seconds:
            report.skip(name, "no time was left")
            continue
        try:
            with _deterministic(name == "deterministic"), mixed:
                report.row(what=name, **_iteration(module, device))
        except Exception as error:
            report.skip(name, error)
    took = {row["what"]: row["seconds"] for row in report.found["rows"]}
    if {"iteration", "deterministic"} <= took.keys():
        report.fact(deterministic_costs=took["deterministic"] / took["iteration"])


def build_distillation(size: Size, latent: tuple[int, int], frames: int) -> Distill:
    """The distillation of conf/sizes/wan_1_3b.yaml with random weights, one prompt per iteration."""
    again = size.width > 256
    teacher = Teacher(size, timestep_shift=5.0, guidance=3.0, average=None)
    student = Student(
        size,
        NoCodec(),  # type: ignore[arg-type]
        RandomText(size),
        StreamSpec(),
        latent,
        frames,
        average=AverageSettings(0.99),
        checkpointing=again,
    )
    critic = Critic(size, timestep_shift=5.0, checkpointing=again)
    for net in (teacher.net, student.net, student.ema.net, critic.net):
        torch.nn.init.normal_(net.head.head.weight, std=0.02)  # type: ignore[union-attr, arg-type]
    return Distill(teacher, student, critic, DMD(), global_batch=1, schedule=UpdateSchedule(student_every=1))


def _fitting(report: PhaseReport) -> tuple[Size, tuple[int, int], int]:
    """The real size, with as many layers as fit into the device's memory."""
    if report.tiny:
        return Size(), (8, 8), 6
    shape = SHAPES["wan_1_3b"]
    size = shape.size
    if report.device == "cuda":
        free = torch.cuda.mem_get_info()[0]
        a_layer = BYTES * (8 * size.width**2 + 2 * size.width * size.ffn)
        layers = min(size.layers, int((0.9 * free - 12 * 2**30) // a_layer))
        if layers < size.layers:
            report.skip(
                f"{size.layers} layers", f"{free / 2**30:.0f} GiB are free: only {max(1, layers)} layers are run"
            )
            size = Size(**{**vars(size), "layers": max(1, layers)})
    return size, (shape.latents[1], shape.latents[2]), 21


def _iteration(module: Distill, device: str) -> dict[str, Any]:
    if not hasattr(module, "prepared"):
        _prepare(module)
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    clock = DeviceClock(device)
    began = clock()
    module.training_step(Batch(torch.tensor([module.iteration]), ["a"]).to(device), 0)
    seconds = clock() - began
    peak = torch.cuda.max_memory_allocated() if device == "cuda" else None
    reserved = torch.cuda.max_memory_reserved() if device == "cuda" else None
    return {"seconds": seconds, "peak": peak, "reserved": reserved, "skipped": module.skip_reason}


def step_trainer(accumulate: int = 1) -> Any:
    """The parts of a trainer that a module uses in a step, without Lightning's loop."""
    return SimpleNamespace(
        world_size=1,
        global_rank=0,
        local_rank=0,
        should_stop=False,
        strategy=SimpleNamespace(reduce=lambda x, reduce_op="mean": x),
        is_global_zero=True,
        checkpoint_callback=None,
        accumulate_grad_batches=accumulate,
        global_step=0,
        max_steps=-1,
    )


def _prepare(module: Distill) -> None:
    """Prepares the module as Lightning's trainer does, as far as a step needs it."""
    module.trainer = step_trainer()
    module.batch.micro = 1
    optimizers, schedules = module.configure_optimizers()
    module.optimizers = lambda *a, **k: optimizers  # type: ignore[method-assign]
    module.lr_schedulers = lambda: schedules  # type: ignore[method-assign]
    module.manual_backward = lambda loss, **k: loss.backward()  # type: ignore[method-assign, assignment, misc]
    module.log = module.log_dict = lambda *a, **k: None  # type: ignore[method-assign, assignment, misc]
    module.train()
    module.prepared = True  # type: ignore[assignment]


@contextmanager
def _deterministic(on: bool) -> Iterator[None]:
    torch.use_deterministic_algorithms(on)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)


def _allocated(device: str) -> float | None:
    return torch.cuda.memory_allocated() / 2**30 if device == "cuda" else None
