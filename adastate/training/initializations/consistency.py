"""Causal consistency distillation (Causal-Forcing++, arXiv 2605.15141)."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from adastate.diffusion import flow, losses
from adastate.diffusion.noise import SampleNoise
from adastate.models.video_network import VideoNetwork
from adastate.stream import StreamSpec
from adastate.training.initializations.causal_forward import (
    block_frames,
    clean_clips,
    flagged,
    teacher_forcing_forward,
)
from adastate.training.initializations.initialization import StudentNetworks
from adastate.types import Batch

Velocity = Callable[[Tensor, Tensor], Tensor]
"""(noisy clips `[B, F, C, H, W]`, timesteps `[B, F]`) -> velocity, with the clean past and the prompt bound."""


class Consistency:
    """One step of a frozen autoregressive diffusion network down its path, and the same answer from there.

    Args:
        weights: of that network, as the stage `ar` writes them.
        steps: levels of its path.
        guidance: w in its guidance c + w (c - u); u has neither prompt nor actions.
    """

    uses_average = True

    def __init__(self, weights: str, steps: int = 48, guidance: float = 0.0) -> None:
        self.frozen_weights: str | None = weights
        self.steps, self.guidance = steps, guidance

    def check(self, spec: StreamSpec) -> None:
        """Every stream will do."""

    def loss(self, networks: StudentNetworks, batch: Batch, noise: SampleNoise) -> Tensor:
        """See Initialization."""
        spec, frozen = networks.spec, networks.frozen
        assert frozen is not None, "the student loads frozen_weights"
        text, nothing = networks.embed(batch.prompts), networks.embed([""])
        clean, actions = clean_clips(batch, spec, "Consistency"), flagged(batch)

        def after_clean(net: VideoNetwork, x: Tensor, t: Tensor) -> Tensor:
            return teacher_forcing_forward(net, x, clean, t, text, spec, actions)

        def guided(x: Tensor, t: Tensor) -> Tensor:
            v = after_clean(frozen, x, t)
            if not self.guidance:
                return v
            u = teacher_forcing_forward(frozen, x, clean, t, nothing.expand(len(text), -1, -1), spec)
            return v + self.guidance * (v - u)

        average, student = (partial(after_clean, net) for net in (networks.average, networks.net))
        return consistency_loss(clean, noise, spec, self.steps, guided, average, student)


def consistency_loss(
    clean: Tensor,
    noise: SampleNoise,
    spec: StreamSpec,
    steps: int,
    frozen: Velocity,
    average: Velocity,
    student: Velocity,
) -> Tensor:
    """|x0(x_t, t) - x0_average(x_s, s)|^2, where x_s is one step of the frozen network down the path from x_t.

    The path has `steps` steps.
    """
    block = block_frames(spec)
    levels = flow.euler_times(steps, spec.timestep_shift).to(clean.device, non_blocking=True)
    draw = torch.stack([noise.integers(steps) for _ in range(clean.shape[1] // block)], 1)
    here, there = (levels[draw + i].repeat_interleave(block, 1) for i in (0, 1))
    x_t = _mix(clean, noise.normal(*clean.shape[1:]), here)
    with torch.no_grad():
        x_s = x_t + _wide(there - here) * frozen(x_t, here * flow.TIMESTEPS)
        # at the end of the path, where `there` is 0, x_s itself
        target = x_s - _wide(there) * average(x_s, there * flow.TIMESTEPS)
    return losses.regression(x_t - _wide(here) * student(x_t, here * flow.TIMESTEPS), target)


def _wide(levels: Tensor) -> Tensor:
    """`[B, F]` over latents."""
    return levels[:, :, None, None, None]


def _mix(x0: Tensor, noise: Tensor, levels: Tensor) -> Tensor:
    return (1 - _wide(levels)) * x0 + _wide(levels) * noise
