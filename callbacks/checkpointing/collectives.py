"""What ranks tell one another."""

from __future__ import annotations

from typing import Any

import lightning.pytorch as pl
import torch


def gathered(trainer: pl.Trainer | None, mine: Any) -> list[Any]:
    """What each rank has, on all of them; without a trainer there is one."""
    if trainer is None or trainer.world_size == 1:
        return [mine]
    found: list[Any] = [None] * trainer.world_size
    torch.distributed.all_gather_object(found, mine)
    return found


def first(trainer: pl.Trainer | None, error: str) -> str:
    """What the first rank that has an error says of it, on all ranks."""
    return next(filter(None, gathered(trainer, error)), "")
