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
import yaml

from adastate.config import environment
from adastate.config.compose import build
from adastate.config.schema import ConfigError
from adastate.config.trusted import check_trusted
from adastate.models.video_network import VideoNetwork
from adastate.optim.ema import EMA
from adastate.runtime import plain_yaml, run_paths
from adastate.training.student import Student
from adastate.training.teacher import Teacher
from adastate.weights.sources import MODEL, STUDENT


def load_student(run: Path, weights: Path | None = None) -> Student:
    """The student of a run folder, or `weights` (safetensors) in that run's geometry; frozen, on the CPU."""
    return student_of(run_config(run, "distill"), weights or student_file(run))


def student_file(run: Path) -> Path:
    """The weights of a run's student, under the name that they have in a run folder or in one from the Hub."""
    pulled = run / MODEL
    return pulled if pulled.is_file() and not (run / STUDENT).is_file() else run / STUDENT


def student_of(config: Mapping[str, Any], weights: Path) -> Student:
    """The student of a distillation's configuration, with weights of any source; frozen, on the CPU."""
    # what was trained through adapters was written without them
    student = _frozen(build(_with(_model(config)["student"], weights=str(weights), lora=None), Student))
    precision = (config.get("trainer") or {}).get("precision")
    student.ema = EMA(held(student.net, precision), 0.0)  # of frozen weights: the same ones
    return student


def load_teacher(run: Path) -> Teacher:
    """The teacher that the run distilled, able to sample clips; frozen, on the CPU."""
    config = run_config(run, "distill")
    model = _model(config)
    student = model["student"]["init_args"]
    shared = {name: student[name] for name in ("codec", "text", "latent_size")}
    teacher = _frozen(build(_with(model["teacher"], **shared), Teacher))
    held(teacher.net, config["trainer"].get("precision"))
    return teacher


def held(net: VideoNetwork, precision: str | int | None) -> VideoNetwork:
    """A frozen network as a trainer of this precision computes: its weights in bfloat16 where that does.

    A network with a dtype of its own to compute in stays as it is.
    """
    if str(precision or "").startswith("bf16") and net.compute_dtype is None:
        net.to(torch.bfloat16)
    return net


def run_config(run: Path, stage: str) -> dict[str, Any]:
    """The resolved configuration with which a stage of a run was trained.

    Raises:
        ConfigError: there is none, or it names classes that are not trusted (`check_trusted`).
    """
    path = run / stage / "config.yaml"
    if not path.is_file():
        raise ConfigError(
            f"{run} is no run folder: it has no {stage}/config.yaml; give the folder that `make train` wrote"
        )
    try:
        config = {"trainer": {}, **environment.resolve(plain_yaml.load(path.read_text(encoding="utf-8")))}
    except (yaml.YAMLError, TypeError) as error:
        raise ConfigError(
            f"{path} holds no configuration ({' '.join(str(error).split())}): train the stage again"
        ) from error
    check_trusted({part: config.get(part) for part in ("model", "data", "trainer")}, path)
    root = str(config["trainer"].get("default_root_dir") or "")
    there = run_paths.located(config, run, root.removesuffix(f"/{stage}") if root.endswith(f"/{stage}") else None)
    return dict(there)


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
