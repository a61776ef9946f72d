"""Reads a run's unread networks from their files, as soon as their device is known."""

from __future__ import annotations

import lightning.pytorch as pl
from lightning.pytorch.plugins.precision import HalfPrecision
from lightning.pytorch.strategies import DDPStrategy, DeepSpeedStrategy, SingleDeviceStrategy

from adastate.models import unread


class NetworkReader(pl.Callback):
    """Reads unread networks to the device of their process, before anything else uses their weights.

    Strategies with `brings_networks` do so themselves: each process reads only what it keeps. For strategies that are
    unknown here, the full networks are read on the host.
    """

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        strategy = trainer.strategy
        if getattr(strategy, "brings_networks", False):
            return
        known = isinstance(strategy, (DDPStrategy, SingleDeviceStrategy)) and not isinstance(
            strategy, DeepSpeedStrategy
        )
        precision = trainer.precision_plugin  # a plugin that casts all weights does so before they are on a device
        low = precision._desired_input_dtype if isinstance(precision, HalfPrecision) else None
        unread.bring_all(pl_module, strategy.root_device if known else "cpu", low)
