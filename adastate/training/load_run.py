"""Run folders: how a finished run becomes a student or teacher again.

A run folder holds one folder per stage with the resolved `config.yaml`, and the weights that the stages wrote. What is
loaded runs as in training: where the trainer computed in bfloat16, the networks are held in it. A run folder may have
been moved since: its own paths are found where it lies now.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from adastate.config.compose import build
from adastate.config.run_folder import run_config, student_file
from adastate.models.video_network import VideoNetwork
from adastate.optim.ema import EMA
from adastate.training.student import Student
from adastate.training.teacher import Teacher


def load_student(run: Path, weights: Path | None = None) -> Student:
    """The student of a run folder, or `weights` (safetensors) in that run's geometry; frozen, on the CPU."""
    return student_of(run_config(run, "distill"), weights or student_file(run))


def student_of(config: Mapping[str, Any], weights: Path) -> Student:
    """The student of a distillation's configuration, with weights of any source; frozen, on the CPU."""
    # what was trained through adapters was written without them
    student = _frozen(build(_with(_model(config)["student"], weights=str(weights), lora=None), Student))
    precision = (config.get("trainer") or {}).get("precision")
    student.ema = EMA(held_in_precision(student.net, precision), 0.0)  # of frozen weights: the same ones
    return student


def load_teacher(run: Path) -> Teacher:
    """The teacher that the run distilled, able to sample clips; frozen, on the CPU."""
    config = run_config(run, "distill")
    model = _model(config)
    student = model["student"]["init_args"]
    shared = {name: student[name] for name in ("codec", "text", "latent_size")}
    teacher = _frozen(build(_with(model["teacher"], **shared), Teacher))
    held_in_precision(teacher.net, config["trainer"].get("precision"))
    return teacher


def held_in_precision(net: VideoNetwork, precision: str | int | None) -> VideoNetwork:
    """A frozen network as a trainer of this precision computes: its weights in bfloat16 where that does.

    A network with a dtype of its own to compute in stays as it is.
    """
    if str(precision or "").startswith("bf16") and net.compute_dtype is None:
        net.to(torch.bfloat16)
    return net


def world_of(run: Path) -> str | None:
    """The built-in world whose prompts a run was distilled on; None where they are another's."""
    data = run_config(run, "distill").get("data") or {}
    return (data.get("init_args") or {}).get("kind")


def _model(config: Mapping[str, Any]) -> dict[str, Any]:
    return dict(config["model"]["init_args"])


def _with(node: dict[str, Any], **changes: Any) -> dict[str, Any]:
    return {**node, "init_args": {**node["init_args"], **changes}}


def _frozen(module: Any) -> Any:
    return module.eval().requires_grad_(False)
