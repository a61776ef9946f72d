"""Exponential moving average of a network's weights."""

from __future__ import annotations

import copy

import torch
from torch import nn

from adastate.net import DiT


class EMA(nn.Module):
    """Keeps a second copy of `net`; `decay` is the weight of the old. Before `start` updates it is a plain copy.

    With `warmup` the decay of update n is at most (1 + n) / (10 + n), for runs too short for a fixed one.
    The copy is a submodule, so checkpoints carry it.
    """

    def __init__(self, net: DiT, decay: float, start: int = 0, warmup: bool = False) -> None:
        super().__init__()
        if not 0 <= decay < 1:
            raise ValueError(f"EMA decay {decay} must lie in [0, 1): it is the weight of the old average")
        self.net: DiT = copy.deepcopy(net).requires_grad_(False).eval()
        self.decay, self.start, self.warmup = decay, start, warmup
        self.updates = 0  # a host integer: reading it must not wait for the device

    @torch.no_grad()
    def update(self, net: DiT) -> None:
        self.updates += 1
        n = self.updates
        decay = 0.0 if n <= self.start else min(self.decay, (1 + n) / (10 + n)) if self.warmup else self.decay
        mine = [p.data for p in self.net.parameters()]
        theirs = [p.detach() for p in net.parameters()]
        torch._foreach_lerp_(mine, theirs, 1 - decay)

    def get_extra_state(self) -> dict[str, int]:
        return {"updates": self.updates}

    def set_extra_state(self, state: dict[str, int]) -> None:
        self.updates = state["updates"]
