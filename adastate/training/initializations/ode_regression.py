"""Causal ODE regression: from points of a teacher's trajectories to their end."""

from __future__ import annotations

import torch
from torch import Tensor

from adastate.diffusion import flow, losses
from adastate.diffusion.noise import SampleNoise
from adastate.stream import StreamSpec
from adastate.training.initializations.causal_forward import (
    Pairs,
    StateTarget,
    after_clean_past,
    block_causal_forward,
    block_frames,
    check_state_target,
    flagged,
)
from adastate.training.initializations.initialization import StudentNetworks
from adastate.types import Batch


class OdeRegression:
    """Regresses, at the student's own levels, the ends of trajectories, with a clean past as context (Causal-Forcing).

    Args:
        noisy_context: the past is as noisy as its own level says, the way CausVid and Self-Forcing begin.
        state_target: what a state is taught: nothing (there is no state slot then), or the `first` or `last` frames of
            its own chunk.

    Raises:
        ValueError: for a state that is to be taught with a noisy past.
    """

    frozen_weights: str | None = None
    uses_average = False

    def __init__(self, noisy_context: bool = False, state_target: StateTarget = "none") -> None:
        if noisy_context and state_target != "none":
            raise ValueError(f"state_target {state_target!r} needs a clean past: leave noisy_context false")
        self.noisy_context, self.state_target = noisy_context, state_target

    def check(self, spec: StreamSpec) -> None:
        check_state_target(self.state_target, spec)

    def loss(self, networks: StudentNetworks, batch: Batch, noise: SampleNoise) -> Tensor:
        """See Initialization."""
        net, spec, text = networks.net, networks.spec, networks.embed(batch.prompts)
        pairs = self.pairs(batch, noise, spec)
        if self.noisy_context:
            predicted = block_causal_forward(net, pairs.noisy, pairs.t, text, spec, pairs.actions)
        else:
            predicted, pairs = after_clean_past(net, pairs, text, spec, self.state_target)
        return losses.regression(flow.to_x0(pairs.noisy, predicted, pairs.t, spec.timestep_shift), pairs.target)

    def pairs(self, batch: Batch, noise: SampleNoise, spec: StreamSpec) -> Pairs:
        """Points of the batch's trajectories at the student's own levels, one level a block."""
        block = block_frames(spec)
        if batch.trajectory is None or batch.levels is None:
            raise ValueError("OdeRegression learns from teacher trajectories; use TrajectoryData, or TeacherForcing")
        path, end = batch.trajectory, batch.trajectory[:, -1]
        clean = end if batch.latents is None else batch.latents  # a causal teacher had clips for its past
        spec.chunks(clean.shape[1])
        at = _nearest(batch.levels, spec.timesteps)
        pick = torch.stack([noise.integers(len(at)) for _ in range(clean.shape[1] // block)], 1)
        index = at.to(pick.device, non_blocking=True)[pick].repeat_interleave(block, 1)
        rows, frames = (torch.arange(n, device=path.device) for n in (len(batch), clean.shape[1]))
        return Pairs(
            path[rows[:, None], index, frames[None]],
            clean,
            batch.levels.to(path.device, non_blocking=True)[index],
            end,
            flagged(batch),
        )


def _nearest(levels: Tensor, timesteps: tuple[float, ...]) -> Tensor:
    """Index of each timestep in a trajectory's levels; one farther than 1 of 1000 away is an error."""
    distance, at = (levels.cpu()[None] - torch.tensor(timesteps)[:, None]).abs().min(1)
    if distance.max() > 1:
        raise ValueError(
            f"the trajectories hold timesteps {[round(v, 1) for v in levels.tolist()]}, the student steps at "
            f"{[round(v, 1) for v in timesteps]}: write them again with the student's steps and shift"
        )
    return at
