"""Optimisation: AdamW or Muon, warmed up and brought to rest, and a step with the gradient clipped."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from adastate.optim.muon import Muon
from adastate.optim.settings import OptimizerSettings


def trainable(net: nn.Module) -> list[nn.Parameter]:
    """The weights that learn: all, or the adapters."""
    return [p for p in net.parameters() if p.requires_grad]


def adamw_for(net: nn.Module, lr: float, betas: tuple[float, float], weight_decay: float) -> torch.optim.AdamW:
    """AdamW over what learns of `net`; on a CPU in one operation a weight, where torch by itself takes twelve."""
    weights = trainable(net)
    fused = all(p.device.type == "cpu" for p in weights) or None
    return torch.optim.AdamW(weights, lr, betas, weight_decay=weight_decay, fused=fused)


def adamw(net: nn.Module, settings: OptimizerSettings, steps: int) -> Any:
    """What `configure_optimizers` returns; with `muon_lr` Muon takes the matrices at that rate, AdamW the rest.

    The rate rises linearly over the warm-up and falls linearly to a hundredth over the last `lr_decay_fraction` of
    `steps`. Without warm-up it begins at once; without `lr_decay_fraction`, or in a run without end (`steps` below 1),
    it stays.
    """
    last, warmup = settings.lr_decay_fraction, settings.warmup

    def rate(step: int) -> float:
        rest = min(1.0, (1 - step / steps) / last + 0.01) if steps > 0 and last > 0 else 1.0
        return min(1.0, (step + 1) / max(warmup, 1)) * rest

    optimizer: torch.optim.Optimizer
    if settings.muon_lr is None:
        optimizer = adamw_for(net, settings.lr, settings.betas, settings.weight_decay)
    else:
        weights, decay = trainable(net), settings.weight_decay
        optimizer = Muon(weights, settings.muon_lr, settings.lr, settings.betas, weight_decay=decay)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, rate)
    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def clip_gradient(net: nn.Module, clip: float) -> Tensor:
    """Clips the gradient of `net` to norm `clip`, and returns the norm that it had."""
    norm = nn.utils.clip_grad_norm_(net.parameters(), clip)
    return norm.full_tensor() if hasattr(norm, "full_tensor") else norm


def clipped_step(net: nn.Module, optimizer: Any, clip: float, permit: Callable[[Tensor], bool]) -> Tensor:
    """One step with the gradient of `net` clipped to norm `clip`, if `permit` says so of the norm that it had.

    Returns that norm. The gradient is gone afterwards in either case.
    """
    norm = clip_gradient(net, clip)
    if permit(norm):
        optimizer.step()
    optimizer.zero_grad()
    return norm


def linear_warmup(optimizer: torch.optim.Optimizer, steps: int) -> torch.optim.lr_scheduler.LambdaLR:
    """The rate of `optimizer` rises linearly over its first `steps` steps."""
    return torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(1.0, (step + 1) / max(steps, 1)))
