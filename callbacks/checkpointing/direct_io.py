"""Checkpoints of one file, written where they are asked for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO

from adastate.runtime import plain_data


class DirectIO(TorchCheckpointIO):
    """Writes straight to the path: Lightning's own has the file in memory first, and in TMPDIR, whatever fits there.

    That is for a file that is whole or absent, which here the folder around it is.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        plain_data.save_data(checkpoint, Path(path))


def write_directly(trainer: pl.Trainer) -> None:
    """Gives the strategy a DirectIO in the place of Lightning's."""
    strategy: Any = trainer.strategy
    if type(strategy.checkpoint_io) is TorchCheckpointIO:
        strategy.checkpoint_io = DirectIO()
