"""Exponential moving average of a network's weights."""

from __future__ import annotations

import copy
from typing import Protocol

import torch
from torch import Tensor, nn

from adastate.models import unread
from adastate.models.adapters import fold
from adastate.models.backbones import build_network
from adastate.models.fsdp import is_sharded, local, whole_weights
from adastate.models.video_network import VideoNetwork


class Shares(Protocol):
    """This process's share of a network's float32 weights, where a strategy keeps them in pieces."""

    def cut(self, net: nn.Module) -> list[Tensor]:
        """The same share of the whole weights of `net`, a network of the same shape."""

    def read(self) -> list[Tensor]:
        """The share of the trained network as it is now."""

    def gather(self, shares: list[Tensor]) -> dict[str, Tensor]:
        """Whole weights by name, those of every process's `shares` and those that do not learn.

        All processes call it, and all get them.
        """


class EMA(nn.Module):
    """Keeps a second copy of `net`; `decay` is the weight of the old. Before `start` updates it is a plain copy.

    Only what trains has a copy: weights that adapters leave as they are belong to both networks. With `warmup` the
    decay of update n is at most (1 + n) / (10 + n), for runs too short for a fixed one. The copy is a submodule, so
    checkpoints carry it; after `shard` it is in pieces, and the strategy saves them.
    """

    def __init__(self, net: VideoNetwork, decay: float, start: int = 0, warmup: bool = False) -> None:
        super().__init__()
        if not 0 <= decay < 1:
            raise ValueError(f"EMA decay {decay} must lie in [0, 1): it is the weight of the old average")
        self.names = [name for name, p in net.named_parameters() if p.requires_grad]
        shared = {id(p): p for p in net.parameters() if not p.requires_grad}
        self.net: VideoNetwork = copy.deepcopy(net, shared).requires_grad_(False).eval()
        unread.leave_copy(self.net, net)
        self.decay, self.start, self.warmup = decay, start, warmup
        self.updates = 0  # a host integer: reading it must not wait for the device
        self.shares: list[Tensor] = []
        self._source: Shares | None = None

    def shard(self, source: Shares) -> None:
        """From here on each process averages its own share of the float32 weights, and `net` holds none."""
        self.shares, self._source = source.cut(self.net), source
        unread.give_up(self.net)
        for p in self._averaged(self.net):
            p.data = p.data.new_empty(0)

    def whole(self, dtype: torch.dtype | None = None) -> VideoNetwork:
        """The averaged network with all of its weights: `net` itself, or a gathered copy, without adapters.

        Where the weights are in pieces every process must call it. The copy comes in `dtype`, or in float32.
        """
        if self._source is None and not is_sharded(self.net):
            return self.net
        weights = whole_weights(self.net) if self._source is None else self._source.gather(self.shares)
        with torch.device("meta"):
            net = build_network(self.net.size, compute_dtype=self.net.compute_dtype_name)
        weights = fold(self.net, weights)
        net.load_state_dict({k: v.to(dtype or v.dtype) for k, v in weights.items()}, assign=True)
        net.split = self.net.split
        return net.requires_grad_(False).eval()

    @torch.no_grad()
    def update(self, net: VideoNetwork) -> None:
        self.updates += 1
        n = self.updates
        decay = 0.0 if n <= self.start else min(self.decay, (1 + n) / (10 + n)) if self.warmup else self.decay
        if self._source is not None:
            mine, theirs = self.shares, self._source.read()
        else:
            mine = [local(p.data) for p in self._averaged(self.net)]
            theirs = [local(p.detach()) for p in self._averaged(net)]
        torch._foreach_lerp_(mine, theirs, 1 - decay)

    def _averaged(self, net: VideoNetwork) -> list[nn.Parameter]:
        found = dict(net.named_parameters())
        return [found[name] for name in self.names]

    def get_extra_state(self) -> dict[str, int]:
        return {"updates": self.updates}

    def set_extra_state(self, state: dict[str, int]) -> None:
        self.updates = state["updates"]
