"""Saving and resuming for strategies with sharded networks: the methods that Lightning calls.

A strategy assigns these functions to its own methods, `save_checkpoint = sharded_strategies.save_checkpoint`, whatever
its Lightning base class. Weights, moments and averages are in the shards (adastate.weights.sharded_checkpoint), so
Lightning gets only the buffers and counters as the module's state, and no optimiser state.
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
    """A strategy with sharded networks."""

    @property
    def held(self) -> Mapping[str, ShardedNetwork]:
        """This rank's shards of each trained network, by name."""

    @property
    def lightning_module(self) -> pl.LightningModule | None: ...

    @property
    def global_rank(self) -> int: ...

    def broadcast(self, obj: Any, src: int = 0) -> Any: ...


def save_checkpoint(self: Keeper, checkpoint: dict[str, Any], filepath: Any, storage_options: Any = None) -> None:
    """Writes every rank's files into the folder that rank 0 names."""
    sharded_checkpoint.save_sharded(Path(self.broadcast(os.fspath(filepath))), self.held, self.global_rank, checkpoint)


def load_checkpoint(self: Keeper, checkpoint_path: Any, weights_only: bool | None = None) -> dict[str, Any]:
    """Restores networks and optimisers, and returns the rest to Lightning."""
    return sharded_checkpoint.restore_sharded(Path(checkpoint_path), self.held)


def lightning_module_state_dict(self: Keeper) -> dict[str, Any]:
    """Buffers and counters of the module."""
    return sharded_checkpoint.rest_of(_module(self))


def load_model_state_dict(self: Keeper, checkpoint: Mapping[str, Any], strict: bool = True) -> None:
    """Loads the result of `lightning_module_state_dict`."""
    sharded_checkpoint.bring_rest(_module(self), checkpoint["state_dict"])


def optimizer_state(self: Keeper, optimizer: Any) -> dict[str, Any]:
    """Empty: the state is in the shards."""
    return {}


def _module(self: Keeper) -> pl.LightningModule:
    assert self.lightning_module is not None, "Lightning connects the module before it saves or loads"
    return self.lightning_module
