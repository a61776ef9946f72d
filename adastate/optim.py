"""The optimiser of the stages that train one network: AdamW, warmed up and brought to rest."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn


def adamw(
    net: nn.Module,
    lr: float,
    betas: tuple[float, float],
    weight_decay: float,
    warmup: int,
    decay_share: float,
    steps: int,
) -> Any:
    """What `configure_optimizers` returns.

    The rate rises linearly over `warmup` steps and falls linearly to a hundredth over the last `decay_share` of
    `steps`; with `steps` below 1, a run without end, it stays.
    """

    def rate(step: int) -> float:
        rest = min(1.0, (1 - step / steps) / decay_share + 0.01) if steps > 0 else 1.0
        return min(1.0, (step + 1) / warmup) * rest

    optimizer = torch.optim.AdamW(net.parameters(), lr, betas, weight_decay=weight_decay)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, rate)
    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}
