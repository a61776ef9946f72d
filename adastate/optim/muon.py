"""Muon for matrices and kernels, AdamW for the rest, as one optimiser."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

SMALL = 8
"""A matrix with no more rows or columns than this is AdamW's."""


def is_matrix(weight: Tensor) -> bool:
    """Whether Muon takes it: kernels count as matrices of their output channels."""
    return weight.dim() > 1 and min(len(weight), weight[0].numel()) > SMALL


class Muon(torch.optim.Optimizer):
    """torch.optim.Muon over the matrices of `weights`, kernels of convolutions included, and AdamW over the others.

    Muon makes the momentum of a matrix orthogonal (Jordan et al. 2024, kellerjordan.github.io/posts/muon). The groups
    are the matrices, at rate `lr`, and the rest, at `adamw_lr`, without decay; state and schedules are as in any
    optimiser. Weights have to be whole: not for ZeRO or FSDP.

    Args:
        weights: to be trained, all contiguous.
        lr: of the matrices; the update of one of m x n is scaled by max(1, m / n) ** .5.
        adamw_lr, betas: of the rest.
        momentum, weight_decay: of the matrices.
    """

    def __init__(
        self,
        weights: Iterable[nn.Parameter],
        lr: float,
        adamw_lr: float,
        betas: tuple[float, float] = (0.9, 0.99),
        momentum: float = 0.95,
        weight_decay: float = 0.01,
    ) -> None:
        weights = list(weights)
        matrices, rest = [p for p in weights if is_matrix(p)], [p for p in weights if not is_matrix(p)]
        if not matrices or not rest:
            raise ValueError("Muon needs matrices and other weights beside them")
        if any(hasattr(p, "full_tensor") or hasattr(p, "ds_id") for p in weights):
            raise ValueError("Muon needs whole matrices: leave `muon_lr` null, or train with conf/strategy/ddp.yaml")
        self._flat = [nn.Parameter(p.detach().flatten(1), requires_grad=False) for p in matrices]
        self._muon = torch.optim.Muon(self._flat, lr, weight_decay, momentum)
        fused = all(p.device.type == "cpu" for p in rest) or None
        self._adamw = torch.optim.AdamW(rest, adamw_lr, betas, weight_decay=0.0, fused=fused)
        groups = [{**self._muon.param_groups[0], "params": matrices}, self._adamw.param_groups[0]]
        super().__init__(groups, {})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # type: ignore[override]
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        matrices, rest = self.param_groups
        # The two optimisers within keep nothing of their own: groups and state are those of this one.
        for p, flat in zip(matrices["params"], self._flat, strict=True):
            flat.data, flat.grad = p.data.view(len(p), -1), None if p.grad is None else p.grad.reshape(len(p), -1)
            self._muon.state[flat] = self.state[p]
        self._muon.param_groups[0].update({**matrices, "params": self._flat})
        self._muon.step()
        self._adamw.param_groups, self._adamw.state = [rest], self.state
        self._adamw.step()
        return loss
