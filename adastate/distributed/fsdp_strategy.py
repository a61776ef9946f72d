"""FSDP2 for several networks in one run, with torch alone: every network is sharded, and gathered layer by layer.

The module shards its networks itself (`configure_model`, adastate.models.fsdp.shard); this strategy determines over how
many processes, and saves the shards like ZeroStrategy: torch's own format requires everything that the module has,
frozen networks included, and is a pickle. Written for Lightning 2.6.
"""

from __future__ import annotations

from math import prod
from typing import Any, cast

import lightning.pytorch as pl
import torch
from lightning.pytorch.strategies import ModelParallelStrategy
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.distributed.tensor._utils import compute_local_shape_and_global_offset

from adastate.distributed import sample_groups, sharded_strategies
from adastate.distributed.protocol import trained_module
from adastate.models.fsdp import local
from adastate.models.video_network import VideoNetwork
from adastate.optim.ema import EMA
from adastate.weights.sharded_checkpoint import (
    AVERAGE,
    WEIGHT,
    SavedShards,
    WeightShard,
    counters,
    moments_of,
    scalars_of,
)


class FsdpStrategy(ModelParallelStrategy):
    """Trains a module that shards its networks, over all processes.

    Args:
        sequence_parallel: ranks that share a sample, see adastate.distributed.sequence_split; weights are always
            sharded over all ranks.

    Raises:
        TypeError: for a module that does not name its networks.
    """

    brings_networks = True

    def __init__(self, sequence_parallel: int = 1) -> None:
        super().__init__(data_parallel_size=1, tensor_parallel_size=1)
        self.sequence_parallel = sequence_parallel
        self.held: dict[str, FsdpShards] = {}

    def _setup_distributed(self) -> None:
        super()._setup_distributed()
        self._data_parallel_size = self.world_size

    def setup_environment(self) -> None:
        super().setup_environment()
        sample_groups.group_ranks(self)

    distributed_sampler_kwargs = property(sample_groups.distributed_sampler_kwargs)  # type: ignore[assignment]

    def setup(self, trainer: pl.Trainer) -> None:
        super().setup(trainer)
        module = trained_module(self.lightning_module, "FsdpStrategy")
        for optimizer in self.optimizers:
            mine = {id(p) for group in optimizer.param_groups for p in group["params"]}
            (found,) = (n for n in module.trained.values() if any(id(p) in mine for p in n.net.parameters()))
            self.held[found.name] = FsdpShards(found.net, optimizer, found.average)

    # ---- checkpoints, see adastate.distributed.sharded_strategies

    save_checkpoint = sharded_strategies.save_checkpoint
    load_checkpoint = sharded_strategies.load_checkpoint
    lightning_module_state_dict = sharded_strategies.lightning_module_state_dict
    load_model_state_dict = sharded_strategies.load_model_state_dict
    optimizer_state = sharded_strategies.optimizer_state


class FsdpShards:
    """This rank's part of a network that FSDP2 has sharded along the first axis, see
    adastate.weights.sharded_checkpoint.ShardedNetwork."""

    def __init__(self, net: VideoNetwork, optimizer: torch.optim.Optimizer, average: EMA | None) -> None:
        named = [(n, p) for n, p in net.named_parameters() if p.requires_grad]
        self.optimizer, self.shapes = optimizer, {n: tuple(p.shape) for n, p in named}
        self.pieces = [piece for piece in (_piece(n, p) for n, p in named) if piece.count]
        self.averages: list[Tensor] | None = None
        if average is not None:
            copies = dict(average.net.named_parameters())
            self.averages = [local(copies[piece.name].detach()).view(-1) for piece in self.pieces]

    @property
    def groups(self) -> list[dict[str, Any]]:
        return self.optimizer.param_groups

    def moments(self, piece: WeightShard) -> list[str]:
        return moments_of(self.optimizer.state[piece.param])

    def scalars(self) -> dict[str, Tensor]:
        return scalars_of(self.optimizer.state[self.pieces[0].param]) if self.pieces else {}

    def part(self, piece: WeightShard, part: str) -> Tensor:
        held = piece.param if part == WEIGHT else self.optimizer.state[piece.param][part]
        return local(held.detach()).reshape(-1)

    def write(self, piece: WeightShard, part: str, value: Tensor) -> None:
        state = self.optimizer.state[piece.param]
        if part != WEIGHT and part not in state:
            state[part] = torch.zeros_like(piece.param)
        held = piece.param if part == WEIGHT else state[part]
        target = local(held.detach())
        target.copy_(value.view(target.shape))

    def count(self, scalars: dict[str, Tensor]) -> None:
        for group in self.optimizer.param_groups:
            for param in group["params"]:  # including those of which this rank holds nothing
                self.optimizer.state[param].update(counters(scalars, param, group))

    def bring(self, saved: SavedShards) -> None:
        for group in self.optimizer.param_groups:
            for param in group["params"]:
                for part in set.intersection(*map(saved.parts, saved.shapes)) - {WEIGHT, AVERAGE}:
                    self.optimizer.state[param].setdefault(part, torch.zeros_like(param))


def _piece(name: str, param: Any) -> WeightShard:
    if not isinstance(param, DTensor):
        raise TypeError(f"{name} is not sharded: configure_model must shard all trained networks")
    shape, offset = compute_local_shape_and_global_offset(param.shape, param.device_mesh, param.placements)
    return WeightShard(name, cast(torch.nn.Parameter, param), offset[0] * prod(param.shape[1:]), prod(shape))
