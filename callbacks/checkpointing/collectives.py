"""Exchange of small objects between ranks."""

from __future__ import annotations

from typing import Any

import lightning.pytorch as pl
import torch


def gathered(trainer: pl.Trainer | None, mine: Any) -> list[Any]:
    """Every rank's object, on all ranks; without a trainer, a list of this one."""
    if trainer is None or trainer.world_size == 1:
        return [mine]
    found: list[Any] = [None] * trainer.world_size
    torch.distributed.all_gather_object(found, mine)
    return found


def first(trainer: pl.Trainer | None, error: str) -> str:
    """The error of the first rank that has one, on all ranks; "" if none has."""
    return next(filter(None, gathered(trainer, error)), "")
