"""How a strategy that keeps networks in pieces saves and resumes: the methods that Lightning asks it for.

A strategy takes these functions for its own methods, `save_checkpoint = sharded_strategies.save_checkpoint`, whatever
class of Lightning's it is made of. Weights, moments and averages are in the pieces
(adastate.weights.sharded_checkpoint), so Lightning is told that the module is its buffers and counters, and that
optimisers have no state.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import lightning.pytorch as pl

from adastate.weights import sharded_checkpoint
from adastate.weights.sharded_checkpoint import ShardedNetwork


class Keeper(Protocol):
    """A strategy that holds networks in pieces."""

    @property
    def held(self) -> Mapping[str, ShardedNetwork]:
        """What this rank holds of each network that trains, by name."""

    @property
    def lightning_module(self) -> pl.LightningModule | None: ...

    @property
    def global_rank(self) -> int: ...

    def broadcast(self, obj: Any, src: int = 0) -> Any: ...


def save_checkpoint(self: Keeper, checkpoint: dict[str, Any], filepath: Any, storage_options: Any = None) -> None:
    """Every rank's files into the folder that rank 0 names."""
    sharded_checkpoint.save_sharded(Path(self.broadcast(os.fspath(filepath))), self.held, self.global_rank, checkpoint)


def load_checkpoint(self: Keeper, checkpoint_path: Any, weights_only: bool | None = None) -> dict[str, Any]:
    """Takes up networks and optimisers, and gives Lightning the rest."""
    return sharded_checkpoint.restore_sharded(Path(checkpoint_path), self.held)


def lightning_module_state_dict(self: Keeper) -> dict[str, Any]:
    """Buffers and counters of the module."""
    return sharded_checkpoint.rest_of(_module(self))


def load_model_state_dict(self: Keeper, checkpoint: Mapping[str, Any], strict: bool = True) -> None:
    """Loads what `lightning_module_state_dict` gave."""
    sharded_checkpoint.bring_rest(_module(self), checkpoint["state_dict"])


def optimizer_state(self: Keeper, optimizer: Any) -> dict[str, Any]:
    """Nothing: it is in the pieces."""
    return {}


def _module(self: Keeper) -> pl.LightningModule:
    assert self.lightning_module is not None, "Lightning connects the module before it saves or loads"
    return self.lightning_module
