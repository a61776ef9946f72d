"""Autoregressive diffusion: flow matching of every block after a clean past, or after a noisy one."""

from __future__ import annotations

import torch
from torch import Tensor

from adastate.diffusion import flow
from adastate.diffusion.noise import SampleNoise
from adastate.stream import StreamSpec
from adastate.training.initializations.causal_forward import (
    Pairs,
    StateTarget,
    after_clean_past,
    block_causal_forward,
    block_frames,
    check_state_target,
    clean_clips,
    flagged,
)
from adastate.training.initializations.initialization import StudentNetworks
from adastate.types import Batch


class TeacherForcing:
    """Flow matching with the clean past as context.

    Args:
        state_target: see OdeRegression.
    """

    frozen_weights: str | None = None
    uses_average = False

    def __init__(self, state_target: StateTarget = "none") -> None:
        self.state_target = state_target

    def check(self, spec: StreamSpec) -> None:
        check_state_target(self.state_target, spec)

    def loss(self, networks: StudentNetworks, batch: Batch, noise: SampleNoise) -> Tensor:
        """See Initialization."""
        spec, text = networks.spec, networks.embed(batch.prompts)
        pairs = noised_clips(batch, noise, spec, "TeacherForcing")
        predicted, pairs = after_clean_past(networks.net, pairs, text, spec, self.state_target)
        return (predicted - pairs.target).square().mean()


class DiffusionForcing:
    """Flow matching with a level of its own for every block, and the past as noisy as it is (Chen et al. 2024)."""

    frozen_weights: str | None = None
    uses_average = False

    def check(self, spec: StreamSpec) -> None:
        """Every stream will do."""

    def loss(self, networks: StudentNetworks, batch: Batch, noise: SampleNoise) -> Tensor:
        """See Initialization."""
        spec, text = networks.spec, networks.embed(batch.prompts)
        pairs = noised_clips(batch, noise, spec, "DiffusionForcing")
        predicted = block_causal_forward(networks.net, pairs.noisy, pairs.t, text, spec, pairs.actions)
        return (predicted - pairs.target).square().mean()


def noised_clips(batch: Batch, noise: SampleNoise, spec: StreamSpec, asked_by: str) -> Pairs:
    """Clips of the batch, each block noised to a level of its own."""
    block, clean = block_frames(spec), clean_clips(batch, spec, asked_by)
    levels = flow.sigmas_on(spec.timestep_shift, clean.device) * flow.TIMESTEPS
    draw = torch.stack([noise.integers(flow.TIMESTEPS) for _ in range(clean.shape[1] // block)], 1)
    t = levels[draw].repeat_interleave(block, 1)
    eps = noise.normal(*clean.shape[1:])
    return Pairs(flow.add_noise(clean, eps, t, spec.timestep_shift), clean, t, eps - clean, flagged(batch))
