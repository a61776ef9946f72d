"""Blocks of a configuration: what an optimiser and an average of weights are made with."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class OptimizerSettings:
    """AdamW, or Muon for the matrices, of a stage that trains one network.

    Attributes:
        lr: peak rate; it rises over `warmup` steps and falls to a hundredth over the last `lr_decay_fraction` of
            `trainer.max_steps`.
        muon_lr: rate of Muon for the matrices, where `lr` is that of the rest; None: AdamW for all.
        betas, weight_decay: of either.
        gradient_clip_norm: to which the norm of the gradient is clipped.
        warmup: steps; 0 begins at `lr`.
        lr_decay_fraction: share of the run; 0 keeps the rate.
    """

    lr: float = 1e-3
    muon_lr: float | None = None
    betas: tuple[float, float] = (0.9, 0.99)
    weight_decay: float = 0.01
    gradient_clip_norm: float = 1.0
    warmup: int = 60
    lr_decay_fraction: float = 0.3


@dataclass(frozen=True)
class DistillOptimizer:
    """The two AdamW of a distillation, and the guard over both.

    Attributes:
        student_lr, critic_lr: rates.
        betas, weight_decay: of both.
        gradient_clip_norm: each network's gradient is clipped to it by its own norm.
        student_warmup, critic_warmup: steps of each over which its rate rises linearly.
        spike, patience: see SpikeGuard; a loss or gradient norm that is not finite is never stepped upon.
    """

    student_lr: float = 2e-6
    critic_lr: float = 4e-7
    betas: tuple[float, float] = (0.0, 0.999)
    weight_decay: float = 0.01
    gradient_clip_norm: float = 10.0
    student_warmup: int = 0
    critic_warmup: int = 0
    spike: float = 10.0
    patience: int = 5


@dataclass(frozen=True)
class AverageSettings:
    """An exponential moving average of the weights, see EMA.

    Attributes:
        decay: weight of the old average.
        start: updates before which it is a plain copy.
        warmup: limits the decay of update n to (1 + n) / (10 + n).
    """

    decay: float = 0.99
    start: int = 0
    warmup: bool = False
