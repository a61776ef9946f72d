"""What a configuration is made of: its blocks, and the error that says what is wrong with one."""

from __future__ import annotations

import dataclasses
import typing
from typing import Any

LIGHTNING = ("model", "data", "trainer", "seed_everything", "ckpt_path", "weights_only", "optimizer", "lr_scheduler")
VARIABLES = (
    "run", "size", "teacher_size", "critic_size", "stream", "codec", "text", "latent_size", "rollout",
    "teacher", "student", "critic", "precision", "training", "preview",
)  # fmt: skip

TEXT = "text"
"""A value that is taken as it is written: 007 stays 007, 2026-11-29 is no date."""

OTHER = "other"

_OF_STAGE = {
    "weights": TEXT,
    **dict.fromkeys(
        (
            "batch", "lr", "muon_lr", "betas", "weight_decay", "gradient_clip_norm", "warmup", "lr_decay_fraction",
            "ema", "ema_start", "steps", "rank", "alpha", "student_lr", "critic_lr", "iterations",
        ),
        OTHER,
    ),
}  # fmt: skip

PLAIN: dict[str, Any] = {
    "run": {
        **dict.fromkeys(("dir", "stage", "world", "attention"), TEXT),
        **dict.fromkeys(("seed", "iterations", "save_every", "threads"), OTHER),
    },
    "latent_size": OTHER,
    "rollout": dict.fromkeys(("frames", "video_frames", "long_frames", "stream_frames", "rolling_frames"), OTHER),
    "teacher": {"weights": TEXT, "negative_prompt": TEXT, "timestep_shift": OTHER, "guidance": OTHER},
    "student": {"weights": TEXT},
    "critic": {"weights": TEXT},
    "precision": {"compute_dtype": TEXT, "compiled": OTHER, "checkpointing": OTHER},
    "training": {
        "batch": OTHER,
        **dict.fromkeys(
            ("teacher", "teacher_lora", "init", "ar", "consistency", "causvid", "sid", "rolling", "lora"), _OF_STAGE
        ),
    },
    "preview": {"prompts": TEXT, "actions": TEXT, "every": OTHER, "long": OTHER, "seed": OTHER},
}
"""Variables that are values, and not the arguments of a class: their keys, and what these hold."""

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
    """A composed config: what Lightning reads, and the variables that it was made with."""

    lightning: dict[str, Any]
    variables: dict[str, Any]


class ConfigError(ValueError):
    """A mistake in a config file or an override, told in one sentence."""
