"""The few things that callbacks require of a LightningModule."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Protocol, runtime_checkable

import lightning.pytorch as pl

from adastate.encoders import Codec
from adastate.types import Chunk


@runtime_checkable
class Counts(Protocol):
    @property
    def iteration(self) -> int:
        """Training iterations done. Unlike Lightning's global_step it does not count each optimiser's steps."""


@runtime_checkable
class Streams(Counts, Protocol):
    """A module that can generate previews: Teacher, Student and Distill."""

    @property
    def codec(self) -> Codec: ...

    @property
    def rollout_frames(self) -> int:
        """Latent frames of a training rollout: the horizon."""

    @property
    def latent_size(self) -> tuple[int, int]:
        """Latent height and width."""

    def stream(
        self, prompts: list[str], frames: int, seed: int, *, index: Sequence[int] | None = None
    ) -> Iterator[Chunk]:
        """Generates with averaged weights; row i's noise is that of (seed, index[i]), without an index of (seed, i)."""


@runtime_checkable
class StopsOnSignals(Protocol):
    """A callback that ends a run at a signal; in a run without one, signals have their usual effect."""

    def asked_to_stop(self, trainer: pl.Trainer) -> bool:
        """Whether any rank received a signal; afterwards every rank knows."""


@runtime_checkable
class SavesCheckpoints(Protocol):
    """A callback that writes checkpoints, and verifies the one that a run resumes from against its manifest."""

    def save(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> Path | None: ...


@runtime_checkable
class HasIterations(Protocol):
    @property
    def iterations(self) -> int:
        """Iterations of the whole stage, for a module that ends it by itself."""


@runtime_checkable
class SharesAttention(Protocol):
    def attention_share(self, prompts: list[str], frames: int, seed: int) -> dict[str, list[float]]:
        """Mean share of the attention that goes to each kind of key ("state", "past", "own"), chunk by chunk."""


def iteration(trainer: pl.Trainer, module: pl.LightningModule) -> int:
    """The module's own count; for a module with one optimiser that keeps none, Lightning's."""
    return module.iteration if isinstance(module, Counts) else trainer.global_step


def iterations_apart(every: int) -> int:
    """Checks a callback's argument `every` and returns it.

    Raises:
        ValueError: below 1.
    """
    if every < 1:
        raise ValueError(f"every={every} must be at least 1 iteration")
    return every


def log_scalars(trainer: pl.Trainer, metrics: dict[str, float], step: int) -> None:
    """Writes to all loggers at the module's own iteration, which `module.log` cannot."""
    if trainer.is_global_zero:
        for logger in trainer.loggers:
            logger.log_metrics(metrics, step)
