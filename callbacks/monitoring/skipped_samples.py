"""How many samples a run has skipped, and why."""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

import lightning.pytorch as pl

from callbacks.previews import tags
from callbacks.protocols import iteration, iterations_apart, log_scalars


@runtime_checkable
class Skips(Protocol):
    """A datamodule that reports the samples it skipped."""

    @property
    def skipped(self) -> dict[str, int]:
        """Number of samples by cause, summed over all processes."""


class Skipped(pl.Callback):
    """Logs data/skipped/<cause>, the samples skipped so far; datamodules that skip nothing log nothing.

    Args:
        every: iterations between entries.
    """

    def __init__(self, every: int = 50) -> None:
        self.every = iterations_apart(every)
        self._logged = -1

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        now = iteration(trainer, pl_module)
        if now % self.every == 0 and now != self._logged:
            self._log(trainer, now)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._log(trainer, iteration(trainer, pl_module))

    def _log(self, trainer: pl.Trainer, now: int) -> None:
        data: Any = trainer
        if trainer.is_global_zero and isinstance(data.datamodule, Skips) and now != self._logged:
            self._logged = now
            log_scalars(trainer, {tags.skipped(cause): n for cause, n in data.datamodule.skipped.items()}, now)
