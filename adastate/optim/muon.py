"""Muon for matrices and kernels, AdamW for the rest, as one optimiser."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from adastate.models.compute_dtype import fast_dtype

SMALL = 8
"""A matrix with no more rows or columns than this is AdamW's."""

COEFFICIENTS, ITERATIONS = (3.4445, -4.7750, 2.0315), 5
"""Of the quintic Newton-Schulz iteration, as published and as torch.optim.Muon has them."""


def is_matrix(weight: Tensor) -> bool:
    """Whether Muon takes it: kernels count as matrices of their output channels."""
    return weight.dim() > 1 and min(len(weight), weight[0].numel()) > SMALL


def orthogonal(matrix: Tensor, dtype: torch.dtype) -> Tensor:
    """About U V^T of the singular value decomposition U S V^T: singular values become .7 to 1.2 (Jordan et al. 2024).

    torch.optim.Muon iterates in bfloat16 wherever it runs. A processor without instructions for that takes 2 to 3 times
    as long for it as in float32, which was more than half of a step; with them it takes half as long.

    Args:
        matrix: [M, N].
        dtype: in which to iterate.
    """
    a, b, c = COEFFICIENTS
    x = (matrix.mT if matrix.shape[0] > matrix.shape[1] else matrix).to(dtype)
    x = x / x.norm().clamp(min=1e-7)
    for _ in range(ITERATIONS):
        gram = x @ x.mT
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return (x.mT if matrix.shape[0] > matrix.shape[1] else x).to(matrix.dtype)


class Muon(torch.optim.Optimizer):
    """torch.optim.Muon's step over the matrices of `weights`, kernels included, and AdamW's over the others.

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
        fused = all(p.device.type == "cpu" for p in rest) or None
        self._adamw = torch.optim.AdamW(rest, adamw_lr, betas, weight_decay=0.0, fused=fused)
        muon = {"params": matrices, "lr": lr, "momentum": momentum, "weight_decay": weight_decay}
        groups = [muon, self._adamw.param_groups[0]]
        super().__init__(groups, {})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # type: ignore[override]
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        matrices, rest = self.param_groups
        for p in matrices["params"]:
            if p.grad is not None:
                self._step_matrix(p, p.grad, matrices)
        # the one within keeps nothing of its own: group and state are those of this one
        self._adamw.param_groups, self._adamw.state = [rest], self.state
        self._adamw.step()
        return loss

    def _step_matrix(self, weight: nn.Parameter, gradient: Tensor, group: dict[str, Any]) -> None:
        momentum = group["momentum"]
        held = self.state[weight].setdefault("momentum_buffer", torch.zeros_like(gradient))
        held.lerp_(gradient, 1 - momentum)
        ahead = gradient.lerp(held, momentum).flatten(1)  # Nesterov's
        dtype = fast_dtype(weight.device.type)
        rate = group["lr"] * max(1.0, ahead.shape[0] / ahead.shape[1]) ** 0.5
        weight.mul_(1 - group["lr"] * group["weight_decay"])
        weight.add_(orthogonal(ahead, dtype).view_as(weight), alpha=-rate)
