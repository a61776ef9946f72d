"""Writes single-file checkpoints directly to their path."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO

from adastate.runtime import plain_data


class DirectIO(TorchCheckpointIO):
    """Writes straight to the path; Lightning's own holds the file in memory and in TMPDIR first, where it may not fit.

    Lightning does this to make the file atomic; here the enclosing folder is atomic already.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        plain_data.save_data(checkpoint, Path(path))


def write_directly(trainer: pl.Trainer) -> None:
    """Replaces the strategy's checkpoint IO by a DirectIO."""
    strategy: Any = trainer.strategy
    if type(strategy.checkpoint_io) is TorchCheckpointIO:
        strategy.checkpoint_io = DirectIO()
