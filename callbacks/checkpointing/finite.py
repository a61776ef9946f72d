"""Whether everything that a checkpoint would hold is finite."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor

from adastate.weights.sharded_checkpoint import WEIGHT


def not_finite(trainer: pl.Trainer, module: pl.LightningModule) -> str:
    """Names this rank's first weight, average or moment with NaN or infinity; "" if all are finite."""
    named = [(name, tensor) for name, tensor in _held(trainer, module) if tensor.is_floating_point()]
    whole = [torch.isfinite(tensor).all() for _, tensor in named]
    if not whole or bool(torch.stack([one.to(whole[0].device) for one in whole]).all()):  # a single device sync
        return ""
    return f"{next(name for (name, _), one in zip(named, whole, strict=True) if not one)} is not finite"


def _held(trainer: pl.Trainer, module: pl.LightningModule) -> Iterator[tuple[str, Tensor]]:
    strategy: Any = trainer.strategy
    if hasattr(strategy, "held"):  # sharded networks
        for network, held in strategy.held.items():
            for piece in held.pieces:
                for part in (WEIGHT, *held.moments(piece)):
                    yield f"{part} of {network}.{piece.name}", held.part(piece, part)
            yield from ((f"average of {network}", average) for average in held.averages or ())
        return
    names = {id(p): name for name, p in module.named_parameters()}
    yield from ((name, p.detach()) for name, p in module.named_parameters())
    for optimizer in trainer.optimizers:
        for weight, state in optimizer.state.items():
            for part, value in state.items():
                if isinstance(value, Tensor):
                    yield f"{part} of {names.get(id(weight), 'a weight')}", value
