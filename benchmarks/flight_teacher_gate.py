"""Gate 2 of the flight world: whether a teacher's clips follow their prompts and actions."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from adastate.encoders import Codec
from adastate.evaluation.flight_task import Asked, asked_flights, scenes, steered
from adastate.training.teacher import Teacher
from benchmarks.flight_codec_gate import FRAMES, coded, pictured
from datamodules.worlds.flight.voxel_render import render_flights


def generated(teacher: Teacher, codec: Codec, task: Asked, seed: int, steps: int, at_once: int = 12) -> Tensor:
    """Clips `[B, 3 F, 3, h, w]` that the teacher generates from the prompts and the actions."""
    prompts, out = task.prompts, []
    for i in range(0, len(prompts), at_once):
        part = slice(i, i + at_once)
        made = teacher.sample(
            prompts[part],
            FRAMES,
            steps,
            seed,
            index=range(i, i + len(prompts[part])),
            actions=task.actions[part],
        )
        out.append(codec.decode(made))
    return torch.cat(out)


def compare_teacher(
    teacher: Teacher, codec: Codec, seed: int, count: int, steps: int
) -> tuple[dict[str, dict[str, Any]], list[Tensor], list[str]]:
    """Figures of renders, of decoded renders and of the teacher's clips; rows of pictures, generated above real."""
    task = asked_flights(seed, count, FRAMES)
    real = render_flights(task.flights, list(task.poses))
    videos = {"real": real, "codec": coded(codec, real), "teacher": generated(teacher, codec, task, seed, steps)}
    columns = {name: steered(v, task) | scenes(v, task) | pictured(v) for name, v in videos.items()}
    whole = columns["teacher"]["match across latents"] / columns["codec"]["match across latents"]
    columns["teacher"]["match across latents, of the codec's"] = whole
    rows, labels = [], []
    for i in range(min(12, count)):
        rows += [videos["teacher"][i, 1::3], real[i, 1::3]]
        labels += [f"{task.prompts[i]}    [{task.commands[i]}]", "render"]
    return columns, rows, labels
