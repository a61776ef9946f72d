"""Values that are right each and do not go together, as far as the text of a configuration tells."""

from __future__ import annotations

import re
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from adastate.config.classes import derives
from adastate.config.hardware import check_hardware
from adastate.config.schema import Config, ConfigError
from adastate.config.text import read_value
from adastate.models.size import Size, check_degree
from adastate.runtime.missing import to_come_by
from adastate.stream import StreamSpec

DISTILL = "adastate.training.distill.Distill"
TRAJECTORIES = "datamodules.trajectories.TrajectoryData"
BASES = {"model": "lightning.pytorch.LightningModule", "data": "lightning.pytorch.LightningDataModule"}
AUTOMATIC = {
    "gradient_clip_val": "the model clips by itself: set its gradient_clip_norm",
    "accumulate_grad_batches": "the stage accumulates to the global_batch of the model by itself: set that",
}
"""Arguments of the trainer that a distillation, which runs its own optimisers, cannot obey."""

PACKAGES = {"WandbLogger": "wandb", "MLFlowLogger": "mlflow", "CometLogger": "comet_ml", "NeptuneLogger": "neptune"}
"""What Lightning's loggers need beside it."""

LENGTHS = ("max_steps", "max_epochs", "limit_train_batches", "max_time")
"""Arguments of the trainer that end a run; -1 is no end."""


def check_together(config: Config, words: Sequence[str]) -> None:
    """Refuses what cannot train, before anything is imported or read.

    Args:
        words: what a command line changes beside the variables ("--model.global_batch=15").

    Raises:
        ConfigError: with the values, and one that would do.
    """
    given = _given(words)

    def value(path: str) -> Any:
        if path in given:
            return given[path]
        node: Any = config.lightning
        for part in path.split("."):
            node = {**(node.get("init_args") or {}), **node}.get(part) if isinstance(node, dict) else None
        return node

    for part, base in BASES.items():
        path = value(f"{part}.class_path")
        if isinstance(path, str) and not derives(path, base):
            raise ConfigError(f"{path} cannot be the {part}: it is no {base.rpartition('.')[2]}")
    stage = (config.variables.get("run") or {}).get("stage")
    if isinstance(stage, str) and ({"/", "\\"} & set(stage) or stage in ("", ".", "..")):
        raise ConfigError(f"run.stage is {stage!r}: it names a folder within run.dir and must not be a path")
    check_hardware(value)
    if derives(str(value("model.class_path")), DISTILL):
        for key, remedy in AUTOMATIC.items():
            if value(f"trainer.{key}") not in (None, 0, 1) or (key == "gradient_clip_val" and value(f"trainer.{key}")):
                raise ConfigError(f"trainer.{key} is for stages with one optimiser; {remedy}")
    if (config.variables.get("preview") or {}).get("long") == 1:
        raise ConfigError(
            "preview.long is 1, and a rollout of one horizon is always shown: give 0 (none), or 2 and more"
        )
    _check_loggers(value("trainer.logger"))
    _check_length(value)
    _check_shared(value)
    _check_patches(value)
    if derives(str(value("model.class_path")), DISTILL):
        _check_batch(value)
    _check_frames(config, value)
    for path in ("data.file", "data.next_file"):
        _check_prompts(path, value(path))
    _check_prompts("preview.prompts", (config.variables.get("preview") or {}).get("prompts"))
    for part in ("model", "model.student", "model.teacher", "model.critic"):
        _check_weights(value(f"{part}.weights"))
    _check_trajectories(value)


def _check_loggers(told: Any) -> None:
    """A logger whose package is not installed is found when it is made, which is after torch is imported."""
    for node in told if isinstance(told, list) else [told]:
        path = str((node.get("class_path") if isinstance(node, dict) else node) or "").rpartition(".")[2]
        package = PACKAGES.get(path)
        if package and find_spec(package) is None:
            raise ConfigError(f"the logger {path} needs {package}: pip install {package}")


def _check_length(value: Any) -> None:
    """A run of no length would end well, and leave weights that nobody has trained, or none."""
    for key in LENGTHS:
        told = value(f"trainer.{key}")
        amounts = list(told.values()) if isinstance(told, dict) else [told]
        if amounts and all(re.fullmatch(r"[0:. ]+", str(n)) for n in amounts):
            raise ConfigError(f"trainer.{key} is {told}, so nothing would be trained: leave it out")
    epochs = value("trainer.max_epochs")
    if isinstance(epochs, int) and epochs > 0 and derives(str(value("model.class_path")), DISTILL):
        raise ConfigError(
            f"trainer.max_epochs is {epochs}, and a distillation is as long as its iterations: leave it at -1, and set "
            "--run.iterations"
        )


def _given(words: Sequence[str]) -> dict[str, Any]:
    found = {}
    for i, word in enumerate(words):
        if word.startswith("--"):
            key, equals, text = word.removeprefix("--").partition("=")
            text = text if equals else next(iter(words[i + 1 : i + 2]), "")
            found[".".join(part for part in key.split(".") if part != "init_args")] = read_value(text, word)
    return found


def _check_batch(value: Any) -> None:
    whole, batch = value("model.global_batch"), value("data.batch")
    devices, nodes = _count(value("trainer.devices")), _count(value("trainer.num_nodes") or 1)
    if not all(isinstance(n, int) and n > 0 for n in (whole, batch, devices, nodes)):
        return
    processes = devices * nodes // _sharing(value)  # those that share a sample are one
    if whole % (processes * batch):
        fits = [b for b in range(1, whole + 1) if whole % (processes * b) == 0]
        near = min(fits, key=lambda b: abs(b - batch)) if fits else None
        remedy = f"--training.batch={near} would do" if near else f"take a number of processes that divides {whole}"
        raise ConfigError(
            f"model.global_batch {whole} is not a multiple of {processes} processes x batch {batch}; {remedy}"
        )


def _sharing(value: Any) -> int:
    """Processes that share a sample."""
    told = value("trainer.strategy.sequence_parallel")
    return told if isinstance(told, int) and told > 0 else 1


def _check_shared(value: Any) -> None:
    degree, devices = value("trainer.strategy.sequence_parallel"), _count(value("trainer.devices"))
    if degree in (None, 1) or not isinstance(degree, int):
        return
    world = devices * (value("trainer.num_nodes") or 1) if isinstance(devices, int) and devices > 0 else None
    latent_size = value("model.latent_size") or value("model.student.latent_size")
    for part in ("model", "model.student", "model.teacher", "model.critic"):
        size = value(f"{part}.size")
        if isinstance(size, dict) and latent_size:
            try:
                net = Size(**size)
                check_degree(degree, net.heads, net.tokens(latent_size), world)
            except ValueError as error:
                raise ConfigError(f"trainer.strategy.{error}") from error


def _check_patches(value: Any) -> None:
    latent_size = value("model.latent_size") or value("model.student.latent_size")
    for part in ("model", "model.student", "model.teacher", "model.critic"):
        size = value(f"{part}.size")
        sides = (size or {}).get("patch", Size.patch)[1:] if isinstance(size, dict) else ()
        for side, step in zip(latent_size or (), sides, strict=False):
            if isinstance(side, int) and isinstance(step, int) and side % step:
                raise ConfigError(f"latent_size {list(latent_size)} does not divide into patches of {list(sides)}")


def _count(devices: Any) -> Any:
    """How many a value of trainer.devices asks for; None where the machine decides."""
    if isinstance(devices, str) and devices.replace(",", "").isdigit():
        return len(devices.split(",")) if "," in devices else int(devices)
    return len(devices) if isinstance(devices, list) else devices


def _check_weights(source: Any) -> None:
    named = isinstance(source, str) and ("/" in source or Path(source).suffix) and "://" not in source
    if named and not Path(source).exists():
        raise ConfigError(f"no weights at {source}; {to_come_by(Path(source))}")


def _check_trajectories(value: Any) -> None:
    shards = value("data.shards")
    here = isinstance(shards, str) and not re.search(r"[*?\[{]|://", shards)
    if here and derives(str(value("data.class_path")), TRAJECTORIES) and not Path(shards).exists():
        raise ConfigError(f'no trajectories at {shards}; `make trajectories RUN="{Path(shards).parent}"` makes them')


def _check_prompts(key: str, file: Any) -> None:
    if isinstance(file, list) and not all(str(prompt).strip() for prompt in file):
        raise ConfigError(f"{key}: a prompt is empty: describe what to show, or leave it out")
    if isinstance(file, str) and not Path(file).is_file():
        raise ConfigError(f"{key}: no prompts at {file}: give a text file with one prompt per line")


def _check_frames(config: Config, value: Any) -> None:
    stream = config.variables.get("stream")
    for path in ("model.rollout_frames", "model.student.rollout_frames"):
        frames = value(path)
        if isinstance(frames, int) and stream and value(path.rpartition(".")[0] + ".stream") is not None:
            try:
                StreamSpec.of(stream).chunks(frames)
            except ValueError as error:
                raise ConfigError(f"rollout.frames: {error}") from error
