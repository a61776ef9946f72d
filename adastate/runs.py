"""Run folders: how a finished run becomes a student or teacher again.

A run folder holds one folder per stage with the resolved `config.yaml`, and the weights that the stages wrote.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from adastate.config import ConfigError, build
from adastate.student import Student
from adastate.teacher import Teacher


def load_student(run: Path, weights: Path | None = None) -> Student:
    """The student of a run folder, or `weights` (safetensors) in that run's geometry; frozen, on the CPU."""
    source = weights or run / "student.safetensors"
    node = _model(run, "distill")["student"]
    # what was trained through adapters was written without them
    return _frozen(build(_with(node, weights=str(source), lora=None), Student))


def load_teacher(run: Path) -> Teacher:
    """The teacher that the run distilled, able to sample clips."""
    model = _model(run, "distill")
    student = model["student"]["init_args"]
    shared = {name: student[name] for name in ("codec", "text", "grid")}
    return _frozen(build(_with(model["teacher"], **shared), Teacher))


def _model(run: Path, stage: str) -> dict[str, Any]:
    path = run / stage / "config.yaml"
    if not path.is_file():
        raise ConfigError(
            f"{run} is no run folder: it has no {stage}/config.yaml; give the folder that `make train` wrote"
        )
    return dict(yaml.safe_load(path.read_text())["model"]["init_args"])


def _with(node: dict[str, Any], **changes: Any) -> dict[str, Any]:
    return {**node, "init_args": {**node["init_args"], **changes}}


def _frozen(module: Any) -> Any:
    return module.eval().requires_grad_(False)
