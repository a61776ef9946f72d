"""`adastate study gate`: whether the teacher itself remembers; if not, no student can learn to.

Clips of the teacher, from prompts of unseen flights, are measured like every stream: the hue after the fog against the
correct one. The gate is passed if the error is at most 0.3 of that of a hue that never changes. Real clips through the
codec show the resolution of the measure.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from adastate import metrics
from adastate.config.command_line import read_command
from adastate.config.compose import build
from adastate.encoders.batching import portions
from adastate.metrics import MemoryFigures
from adastate.runtime import atomic
from adastate.study.plain_numbers import six_digits
from adastate.study.study_worlds import study_world
from adastate.study.world_truth import passages_of, world_truth
from adastate.training.teacher import Teacher
from datamodules.worlds.flyover import Flight

LIMIT = 0.3
"""Maximum error, relative to that of a constant hue."""


@dataclass(frozen=True)
class GateResult:
    """Memory figures of the teacher, and of real clips through the codec."""

    teacher: MemoryFigures
    real: MemoryFigures

    @property
    def passed(self) -> bool:
        return self.teacher.relative <= LIMIT


def load_world_teacher(world: str, weights: str, codec: str, guidance: float | None = None) -> Teacher:
    """The tiny teacher of a world, frozen and ready to sample; empty names select the bundled weights."""
    known = study_world(world)
    words = ["--config", "conf/base.yaml", "--config", "conf/sizes/tiny.yaml", "--config", "conf/stages/teacher.yaml"]
    words += [f"--training.teacher.weights={weights or known.weights}"]
    words += [f"--codec.init_args.weights={codec or known.weights}", f"--rollout.frames={known.horizon}"]
    told = known.guidance if guidance is None else guidance
    words += [] if told is None else [f"--teacher.guidance={told}"]
    node = dict(read_command(words)[0].lightning["model"])
    made: Teacher = build({**node, "init_args": {**node["init_args"], "out": None, "average": None}}, Teacher)
    return made.eval().requires_grad_(False)


def memory_of(video: Tensor, flights: Sequence[Flight]) -> MemoryFigures:
    passages = passages_of(video, flights)
    if passages is None:
        raise ValueError("memory is measured from hues, which flights of the plain world do not have")
    return metrics.memory(passages)


@torch.no_grad()
def gate(world: str, teacher: Teacher, clips: int, frames: int, steps: int, seed: int) -> GateResult:
    """Measures `clips` clips of `frames` latent frames."""
    known, codec = world_truth(world), teacher.codec
    assert codec is not None
    flights = list(known.even(clips, seed))
    made = []
    for some in portions(clips, teacher.latent_size):
        prompts = [flights[i].caption for i in some]
        made.append(codec.decode(teacher.sample(prompts, frames, steps, seed, index=some)))
    pictures = codec.video_frames(frames)
    real = [codec.decode(codec.encode(known.render(flights[i : i + 16], pictures))) for i in range(0, clips, 16)]
    return GateResult(memory_of(torch.cat(made), flights), memory_of(torch.cat(real), flights))


def gate_command(args: argparse.Namespace) -> None:
    """`adastate study gate`."""
    known = study_world(args.world)
    teacher = load_world_teacher(args.world, args.teacher, args.codec, args.guidance)
    found = gate(args.world, teacher, args.clips, args.frames or known.horizon, args.steps, args.seed)
    show_gate(found, args.world)
    if args.json:
        told: dict[str, Any] = {k: v for k, v in vars(args).items() if k != "json"}
        rows = {k: {**asdict(m), "relative": m.relative} for k, m in rows_of(found).items()}
        atomic.write_json(args.json, six_digits({"protocol": told, "limit": LIMIT, "passed": found.passed, **rows}))


def rows_of(found: GateResult) -> dict[str, MemoryFigures]:
    return {"teacher": found.teacher, "real": found.real}


def show_gate(found: GateResult, world: str) -> None:
    table = Table("", "slope", "error", "constant hue", "mean advance", "error / constant hue", "passages", title=world)
    for name, m in rows_of(found).items():
        numbers = (m.slope, m.error, m.hold, m.mean, m.relative)
        table.add_row(name, *(f"{x:.3f}" for x in numbers), str(m.passages))
    Console().print(table)
    verdict = "passed" if found.passed else "not passed"
    print(
        f"gate {verdict}: the error is {found.teacher.relative:.2f} of that of a constant hue; at most {LIMIT} is "
        "required"
    )
