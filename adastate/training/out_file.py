"""The file of a stage's weights: whole or as it was; a disk that does not take it costs that write alone, as do weights
that are no numbers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.utilities.rank_zero import rank_zero_warn

from adastate.runtime import disk
from adastate.weights.native import NotFinite


class NotWritten(RuntimeError):
    """A run that is over, and has not left the weights that it was made for."""


def write_out(trainer: pl.Trainer, out: str | Path, write: Callable[[Path], Any], last: bool = False) -> None:
    """Has rank 0 write; all ranks call it.

    Raises:
        NotWritten: the disk did not take it, or a weight is no number, and there is no later chance (`last`); on all
            ranks.
    """
    error = ""
    if trainer.is_global_zero:
        try:
            write(Path(out))
        except NotFinite as failure:
            error = f"{out} is not written: {failure}"
        except (OSError, RuntimeError) as failure:
            if not disk.is_fault(failure):
                raise
            error = f"{out} is not written: {disk.reason(failure, Path(out).parent)}"
        if error and not last:
            rank_zero_warn(f"{error}; the previous file is unchanged, training continues")
    if last and (error := trainer.strategy.broadcast(error)):
        saved = trainer.strategy.broadcast(getattr(trainer.checkpoint_callback, "last", None))
        raise NotWritten(f"{error}, then: adastate weights import {saved} {out}" if saved else error)
