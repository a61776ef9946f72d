"""What a configuration is made of: its blocks, and the error that says what is wrong with one."""

from __future__ import annotations

import dataclasses
import typing
from typing import Any, Literal

from adastate.config.described import described

LIGHTNING = ("model", "data", "trainer", "seed_everything", "ckpt_path", "weights_only", "optimizer", "lr_scheduler")
VARIABLES = (
    "run", "size", "teacher_size", "critic_size", "stream", "codec", "text", "latent_size", "rollout",
    "teacher", "student", "critic", "precision", "training", "preview",
)  # fmt: skip

_ATTENTION = described("adastate.models.attention.Backend")
_WORLD = described("datamodules.worlds.flyover.Kind")
_DTYPE = Literal["auto", "bfloat16", "float16", "float32", "float64"]

_OF_STAGE: dict[str, Any] = {
    "weights": str | None,
    "betas": tuple[float, float],
    "muon_lr": float | None,
    **dict.fromkeys(("batch", "warmup", "ema_start", "steps", "rank", "iterations"), int),
    **dict.fromkeys(
        ("lr", "weight_decay", "gradient_clip_norm", "lr_decay_fraction", "ema", "alpha", "student_lr", "critic_lr"),
        float,
    ),
}

PLAIN: dict[str, Any] = {
    "run": {
        "dir": str,
        "stage": str,
        "seed": int,
        "world": _WORLD,
        "iterations": int | None,
        "save_every": int,
        "heartbeat_s": float,
        "threads": int | None,
        "attention": _ATTENTION,
    },
    "latent_size": tuple[int, int],
    "rollout": dict.fromkeys(("frames", "video_frames", "long_frames", "stream_frames", "rolling_frames"), int),
    "teacher": {"weights": str | None, "negative_prompt": str, "timestep_shift": float, "guidance": float},
    "student": {"weights": str | None},
    "critic": {"weights": str | None},
    "precision": {"compute_dtype": _DTYPE | None, "compiled": bool, "checkpointing": bool},
    "training": {
        "batch": int,
        **dict.fromkeys(
            ("teacher", "teacher_lora", "init", "ar", "consistency", "causvid", "sid", "rolling", "lora"), _OF_STAGE
        ),
    },
    "preview": {"prompts": list[str] | str, "actions": list[str] | None, "every": int, "long": int, "seed": int},
}
"""Variables that are values, and not the arguments of a class: their keys, and the types of what these hold.

Text is taken as it is written: 007 stays 007, and 2026-11-29 is no date.
"""

LEAST = {
    **dict.fromkeys(("batch", "steps", "iterations", "save_every", "heartbeat_s", "threads", "rank"), 1),
    **dict.fromkeys(("frames", "video_frames", "long_frames", "stream_frames", "latent_size"), 1),
    **dict.fromkeys(("every", "long", "warmup", "ema", "ema_start", "lr_decay_fraction", "weight_decay", "betas"), 0),
    **dict.fromkeys(("lr", "muon_lr", "student_lr", "critic_lr", "gradient_clip_norm"), 0),
    **dict.fromkeys(("global_batch", "log_every_n_steps", "fps"), 1),
    **dict.fromkeys(("seed", "workers", "decay", "horizon_weight"), 0),
    "max_epochs": -1,
    "max_steps": -1,
}
MOST = {"ema": 1, "lr_decay_fraction": 1, "betas": 1, "decay": 1, "seed": 2**32 - 1}
ABOVE = {"timestep_shift": 0}
"""Of numbers, by the last part of their keys; of a list, of each."""

ALIKE = (
    "lr", "muon_lr", "student_lr", "critic_lr", "gradient_clip_norm", "betas", "decay", "weight_decay",
    "lr_decay_fraction", "global_batch", "rank", "workers", "seed", "max_steps", "max_epochs", "log_every_n_steps",
    "horizon_weight", "timestep_shift", "fps",
)  # fmt: skip
"""Keys whose bounds hold for arguments of classes, too; others mean something else there: `frames: 0` is off."""

FLAGS = ("overwrite", "allow_change", "config", "system", "print_config", "help", "verbose")
"""Of Lightning's command line, beside its blocks."""

T = typing.TypeVar("T")
Path_ = tuple[str, ...]
Lines = dict[Path_, str]
"""Where each key was given."""

Words = dict[Path_, str]
"""What was written there, where it was not quoted."""


@dataclasses.dataclass(frozen=True)
class Config:
    """A composed config: what Lightning reads, the variables that it was made with, and the texts with `${oc.env:...}`
    of what the environment has a part in."""

    lightning: dict[str, Any]
    variables: dict[str, Any]
    unresolved: dict[Path_, str] = dataclasses.field(default_factory=dict)


class ConfigError(ValueError):
    """A mistake in a config file or an override, told in one sentence."""
