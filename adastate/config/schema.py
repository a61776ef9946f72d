"""What a configuration is made of: its blocks, and the error that says what is wrong with one."""

from __future__ import annotations

import dataclasses
import typing
from typing import Any

LIGHTNING = ("model", "data", "trainer", "seed_everything", "ckpt_path", "weights_only", "optimizer", "lr_scheduler")
VARIABLES = (
    "run", "size", "teacher_size", "critic_size", "stream", "codec", "text", "latent_size", "rollout",
    "teacher", "critic", "precision", "training", "preview",
)  # fmt: skip

PLAIN = ("run", "latent_size", "rollout", "teacher", "critic", "precision", "training", "preview")
"""Variables that are values, and not the arguments of a class."""

FLAGS = ("config", "system", "print_config", "help", "verbose")
"""Of Lightning's command line, beside its blocks."""

T = typing.TypeVar("T")
Path_ = tuple[str, ...]
Lines = dict[Path_, str]


@dataclasses.dataclass(frozen=True)
class Config:
    """A composed config: what Lightning reads, and the variables that it was made with."""

    lightning: dict[str, Any]
    variables: dict[str, Any]


class ConfigError(ValueError):
    """A mistake in a config file or an override, told in one sentence."""
