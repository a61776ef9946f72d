"""Which rank holds which shard of a network, and an engine's data of it: weights, gradient, moments."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn

from adastate.models.unread import whole_weight
from adastate.optim.ema import EMA
from adastate.weights.sharded_checkpoint import WEIGHT, SavedShards, WeightShard, counters, moments_of, scalars_of


class ZeroShards:
    """This rank's share of an engine's float32 weights, see adastate.optim.ema.Shares and
    adastate.weights.sharded_checkpoint.ShardedNetwork.

    Args:
        engine: of the network.
        average: of the network, if there is one; it is sharded in the same way.
        device: where averages of the share are kept: the CPU if the optimiser is offloaded to it.
    """

    def __init__(self, engine: Any, average: EMA | None, device: torch.device) -> None:
        self.engine, self.device = engine, device
        named = [(n, p) for n, p in engine.module.net.named_parameters() if p.requires_grad]
        self.frozen = {n: p for n, p in engine.module.net.named_parameters() if not p.requires_grad}
        self.shapes = {n: tuple(getattr(p, "ds_shape", p.shape)) for n, p in named}
        self.all = [_piece(n, p) for n, p in named]
        self.pieces = [piece for piece in self.all if piece.count]
        if average is not None:
            average.shard(self)
        self.averages = None if average is None else average.shares

    # ---- for averages

    def cut(self, net: nn.Module) -> list[Tensor]:
        return [
            whole_weight(net, p.name).flatten()[p.start : p.start + p.count].to(self.device, torch.float32, copy=True)
            for p in self.pieces
        ]

    def read(self) -> list[Tensor]:
        return [self.part(p, WEIGHT).to(self.device) for p in self.pieces]

    def gather(self, shares: list[Tensor]) -> dict[str, Tensor]:
        mine = {p.name: (p, share) for p, share in zip(self.pieces, shares, strict=True)}
        found = {}
        for every in self.all:
            full = torch.zeros(self.shapes[every.name], device=every.param.device)
            if every.name in mine:
                piece, share = mine[every.name]
                full.view(-1)[piece.start : piece.start + piece.count] = share.to(full.device)
            torch.distributed.all_reduce(full)  # every element belongs to one rank, so the sum is exact
            found[every.name] = full
        for name, param in self.frozen.items():  # weights that adapters leave unchanged
            found[name] = _whole(param)
        return found

    # ---- for a step

    def gradient_norm(self) -> Tensor:
        """Norm of the full reduced gradient, before clipping; on every rank."""
        device = self.all[0].param.device
        parts = [_gradient(p).float().norm().to(device) for p in self.pieces]
        squared = torch.stack(parts).square().sum() if parts else torch.zeros((), device=device)
        torch.distributed.all_reduce(squared)
        return squared.sqrt()

    # ---- for checkpoints

    @property
    def groups(self) -> list[dict[str, Any]]:
        return cast(list[dict[str, Any]], self.engine.basic_optimizer.param_groups)

    def moments(self, piece: WeightShard) -> list[str]:
        return moments_of(self._state(piece))

    def scalars(self) -> dict[str, Tensor]:
        return scalars_of(self._state(self.pieces[0])) if self.pieces else {}

    def part(self, piece: WeightShard, part: str) -> Tensor:
        param: Any = piece.param
        if hasattr(param, "ds_id"):
            from deepspeed.utils import safe_get_local_fp32_param, safe_get_local_optimizer_state

            found = (
                safe_get_local_fp32_param(param)
                if part == WEIGHT
                else safe_get_local_optimizer_state(param, optim_state_key=part)
            )
            # without the padding of the last one; DeepSpeed moves offloaded data to the device
            return cast(Tensor, found).detach()[: piece.count].to(self.device)
        flat, at = self._flat(param)
        held = flat if part == WEIGHT else self.engine.basic_optimizer.state[flat][part]
        return cast(Tensor, held).detach()[at : at + piece.count]

    def write(self, piece: WeightShard, part: str, value: Tensor) -> None:
        flat, at = self._flat(piece.param)
        state = self.engine.basic_optimizer.state[flat]
        if part != WEIGHT and part not in state:
            state[part] = torch.zeros_like(flat)
        param: Any = piece.param
        if hasattr(param, "ds_id"):
            from deepspeed.utils import safe_set_local_fp32_param, safe_set_local_optimizer_state

            padded = torch.zeros(param.ds_tensor.numel())
            padded[: piece.count] = value
            if part == WEIGHT:
                safe_set_local_fp32_param(param, padded)
            else:
                safe_set_local_optimizer_state(param, padded, optim_state_key=part)
        else:
            (flat.data if part == WEIGHT else state[part])[at : at + piece.count].copy_(value)

    def count(self, scalars: dict[str, Tensor]) -> None:
        (group,) = self.groups
        for piece in self.pieces:
            self._state(piece).update(counters(scalars, self._flat(piece.param)[0], group))

    def bring(self, saved: SavedShards) -> None:
        import deepspeed

        prologue = getattr(self.engine.optimizer, "checkpoint_event_prologue", None)
        if prologue is not None:
            prologue()  # in stage 3 small weights are also kept unsharded
        for every in self.all:
            param: Any = every.param
            sharded = hasattr(param, "ds_id")
            with deepspeed.zero.GatheredParameters([param], modifier_rank=0, enabled=sharded):
                if not sharded or torch.distributed.get_rank() == 0:
                    param.data.copy_(saved.whole(every.name, WEIGHT))
        if prologue is not None:
            self.engine.optimizer.checkpoint_event_epilogue()

    def _state(self, piece: WeightShard) -> dict[str, Any]:
        return cast(dict[str, Any], self.engine.basic_optimizer.state[self._flat(piece.param)[0]])

    def _flat(self, param: Any) -> tuple[Tensor, int]:
        """The flat float32 tensor that the optimiser steps, and the offset of this rank's shard of `param` in it."""
        if hasattr(param, "ds_id"):
            zero = self.engine.optimizer
            group, at, _ = zero.grad_position[zero.get_param_id(param)]
            return zero.fp32_partitioned_groups_flat[group], at
        (flat,) = self.engine.basic_optimizer.param_groups[0]["params"]
        return flat, param._hp_mapping.hp_fragment_address.start


def _whole(param: Any) -> Tensor:
    """A copy of a weight that is not trained; all ranks call it."""
    import deepspeed

    with deepspeed.zero.GatheredParameters([param], enabled=hasattr(param, "ds_id")):
        return cast(Tensor, param.detach().clone())


def _piece(name: str, param: Any) -> WeightShard:
    """This rank's shard of a parameter, as DeepSpeed divides it: an equal part of each one in stage 3; in stages 1 and
    2 the part that falls into the rank's share of all parameters concatenated."""
    if hasattr(param, "ds_id"):
        even = param.partition_numel()
        start = even * torch.distributed.get_rank()
        return WeightShard(name, param, start, max(0, min(even, param.ds_numel - start)))
    mapping = param._hp_mapping
    if mapping is None:
        return WeightShard(name, param, 0, 0)
    return WeightShard(name, param, mapping.lp_fragment_address.start, mapping.lp_fragment_address.numel)


def _gradient(piece: WeightShard) -> Tensor:
    """The reduced gradient of a shard, between the last backward and the step."""
    param: Any = piece.param
    if hasattr(param, "ds_id"):
        from deepspeed.utils import safe_get_local_grad

        return cast(Tensor, safe_get_local_grad(param)).flatten()[: piece.count]
    found = cast(Tensor, param._hp_mapping.get_lp_grad_fragment(param._index_in_param_group)).flatten()
    # bf16 in stage 1 accumulates full gradients
    return found if found.numel() == piece.count else found[piece.start : piece.start + piece.count]
