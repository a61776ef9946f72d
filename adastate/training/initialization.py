"""The objectives that make a causal student of a bidirectional network, before it is distilled."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from torch import Tensor

from adastate.diffusion import flow, losses
from adastate.diffusion.noise import SampleNoise
from adastate.models.actions import Steering, given
from adastate.models.masks import block_causal, teacher_forcing
from adastate.models.wan import DiT
from adastate.stream import StateCache, StreamSpec
from adastate.stream.teacher_forcing import teacher_forced_chunks
from adastate.training.prompted_network import PromptedNetwork
from adastate.types import Batch

Init = Literal["ode", "ode_noisy_context", "teacher_forcing", "diffusion_forcing", "consistency"]
StateTarget = Literal["none", "first", "last"]
"""What a state is taught: nothing, or these frames of its own chunk."""
REGRESSIONS = ("ode", "ode_noisy_context")
NOISY_PAST = ("ode_noisy_context", "diffusion_forcing")

Flow = Callable[[Tensor, Tensor], Tensor]
"""(noisy clips `[B, F, C, H, W]`, timesteps `[B, F]`) -> velocity, with the clean past and the prompt bound."""


@dataclass(frozen=True)
class Pairs:
    """Clips `[B, F, C, H, W]` with one level for every block.

    Attributes:
        noisy: what the network sees.
        clean: clips for the past.
        t: timesteps `[B, F]` of `noisy`.
        target: x0 for a regression, else the velocity.
        actions: of each frame `[B, F, A + 1]`, where the data has them.
    """

    noisy: Tensor
    clean: Tensor
    t: Tensor
    target: Tensor
    actions: Tensor | None = None


def pairs(init: Init, batch: Batch, noise: SampleNoise, spec: StreamSpec) -> Pairs:
    """Points of the batch's trajectories at the student's own levels, or its clips with noise."""
    block, actions = _block(spec), flagged(batch)
    if init in REGRESSIONS:
        if batch.trajectory is None or batch.levels is None:
            raise ValueError(
                f"init: {init} regresses teacher trajectories; use TrajectoryData, or init: teacher_forcing"
            )
        path, end = batch.trajectory, batch.trajectory[:, -1]
        clean = end if batch.latents is None else batch.latents  # a causal teacher had clips for its past
        spec.chunks(clean.shape[1])
        at = _nearest(batch.levels, spec.timesteps)
        pick = torch.stack([noise.integers(len(at)) for _ in range(clean.shape[1] // block)], 1)
        index = at.to(pick.device)[pick].repeat_interleave(block, 1)
        rows, frames = torch.arange(len(batch))[:, None], torch.arange(clean.shape[1])[None]
        return Pairs(path[rows, index, frames], clean, batch.levels.to(path.device)[index], end, actions)
    clean = clips(init, batch, spec)
    levels = flow.sigma_table(spec.timestep_shift).to(clean.device) * flow.TIMESTEPS
    draw = torch.stack([noise.integers(flow.TIMESTEPS) for _ in range(clean.shape[1] // block)], 1)
    t = levels[draw].repeat_interleave(block, 1)
    eps = noise.normal(*clean.shape[1:])
    return Pairs(flow.add_noise(clean, eps, t, spec.timestep_shift), clean, t, eps - clean, actions)


def flagged(batch: Batch) -> Tensor | None:
    """A batch's actions as the network takes them, `[B, F, A + 1]`; None where it has none."""
    return None if batch.actions is None else given(batch.actions)


def clips(init: Init, batch: Batch, spec: StreamSpec) -> Tensor:
    if batch.latents is None:
        raise ValueError(f"init: {init} needs latents; use ShardData, WorldData(clips=...) or TrajectoryData")
    spec.chunks(batch.latents.shape[1])
    return batch.latents


# ---- the network over all blocks of clips


def teacher_forcing_forward(
    net: DiT, noisy: Tensor, clean: Tensor, t: Tensor, text: Tensor, spec: StreamSpec, actions: Tensor | None = None
) -> Tensor:
    """Flow `[B, F, C, H, W]` of all blocks of `noisy`, each after the clean blocks before it (teacher forcing), in one
    forward over [clean copy | noisy copy], both of which have the `actions` [B, F, A + 1]."""
    frames = clean.shape[1]
    mask = teacher_forcing(frames, spec.chunk_frames, spec.past_frames)
    both, times = torch.cat([clean, noisy], 1), torch.cat([torch.zeros_like(t), t], 1)
    twice = None if actions is None else torch.cat([actions, actions], 1)
    return net(both, times, text, positions=[*range(frames)] * 2, visible=mask, actions=twice)[:, frames:]


def block_causal_forward(
    net: DiT, noisy: Tensor, t: Tensor, text: Tensor, spec: StreamSpec, actions: Tensor | None = None
) -> Tensor:
    """Flow of all blocks in one block-causal forward, each of which sees the past at that past's own levels."""
    past, block = spec.past_frames, spec.chunk_frames
    mask = block_causal(noisy.shape[1], block, None if past is None else past + block)
    return net(noisy, t, text, visible=mask, actions=actions)


def teacher_forcing_through_cache(
    net: DiT, made: Pairs, text: Tensor, spec: StreamSpec, target: Literal["first", "last"]
) -> tuple[Tensor, Pairs]:
    """(velocity, pairs) of teacher forcing chunk by chunk through the cache, each chunk led by a state.

    A state is taught the `target` frames of its own chunk, so the pairs that come back have these in its place.
    """
    size, queries = spec.chunk_frames, spec.state_frames
    if queries > size:
        raise ValueError(
            f"a chunk of {size} frames has none to teach {queries} state frames; set init_state_target: none"
        )
    at = slice(0, queries) if target == "first" else slice(size - queries, size)

    def with_state(x: Tensor) -> list[Tensor]:
        return [torch.cat([chunk[:, at], chunk], 1) for chunk in x.split(size, 1)]

    parts = [with_state(x) for x in (made.noisy, made.clean, made.t, made.target)]
    steering = None if made.actions is None else Steering(made.actions)  # states have no actions
    predicted = teacher_forced_chunks(PromptedNetwork(net, text, steering=steering), StateCache(spec), *parts[:3])
    return torch.cat(list(predicted), 1), Pairs(*(torch.cat(part, 1) for part in parts))


def refuse_conflicts(init: Init, target: StateTarget, anchor: str, ar_weights: str | None) -> None:
    """Rejects incompatible options of an initialisation.

    Raises:
        ValueError: for the first of them.
    """
    if target != "none" and anchor != "state":
        raise ValueError(f"init_state_target {target!r} needs anchor: state, not {anchor!r}")
    if target != "none" and init in (*NOISY_PAST, "consistency"):
        raise ValueError(f"init_state_target {target!r} needs a clean past; init is {init!r}")
    if (init == "consistency") != (ar_weights is not None):
        raise ValueError(f"init {init!r} with ar_weights {ar_weights!r}: consistency needs them, and it alone")


# ---- losses


def loss(init: Init, net: DiT, made: Pairs, text: Tensor, spec: StreamSpec, target: StateTarget) -> Tensor:
    """Of one batch, for every initialisation but `consistency`."""
    if target != "none":
        predicted, made = teacher_forcing_through_cache(net, made, text, spec, target)
    elif init in NOISY_PAST:
        predicted = block_causal_forward(net, made.noisy, made.t, text, spec, made.actions)
    else:
        predicted = teacher_forcing_forward(net, made.noisy, made.clean, made.t, text, spec, made.actions)
    return regression(init, predicted, made, spec.timestep_shift)


def regression(init: Init, predicted: Tensor, made: Pairs, shift: float) -> Tensor:
    """Squared error of x0 or of the velocity `predicted`, for blocks at levels of their own."""
    if init in REGRESSIONS:
        return losses.regression(flow.to_x0(made.noisy, predicted, made.t, shift), made.target)
    return (predicted - made.target).square().mean()


def guided_consistency(
    nets: tuple[DiT, DiT, DiT],
    batch: Batch,
    noise: SampleNoise,
    texts: tuple[Tensor, Tensor],
    spec: StreamSpec,
    steps: int,
    guidance: float,
) -> Tensor:
    """`consistency` on the clips of a batch.

    Args:
        nets: the frozen one, the average and the student's.
        texts: embeddings of the prompts, and of none, for the guidance c + w (c - u) of the frozen network; u has no
            actions either.
    """
    clean, actions = clips("consistency", batch, spec), flagged(batch)

    def after_clean(net: DiT, x: Tensor, t: Tensor) -> Tensor:
        return teacher_forcing_forward(net, x, clean, t, texts[0], spec, actions)

    def guided(x: Tensor, t: Tensor) -> Tensor:
        v = after_clean(nets[0], x, t)
        return v + guidance * (v - teacher_forcing_forward(nets[0], x, clean, t, texts[1], spec)) if guidance else v

    return consistency(clean, noise, spec, steps, guided, *(partial(after_clean, net) for net in nets[1:]))


def consistency(
    clean: Tensor, noise: SampleNoise, spec: StreamSpec, steps: int, frozen: Flow, average: Flow, student: Flow
) -> Tensor:
    """|x0(x_t, t) - x0_average(x_s, s)|^2, where x_s is one step of the frozen network down the path from x_t.

    Causal consistency distillation (Causal-Forcing++, arXiv 2605.15141); the path has `steps` steps.
    """
    block = _block(spec)
    levels = flow.euler_times(steps, spec.timestep_shift).to(clean.device)
    draw = torch.stack([noise.integers(steps) for _ in range(clean.shape[1] // block)], 1)
    here, there = (levels[draw + i].repeat_interleave(block, 1) for i in (0, 1))
    x_t = _mix(clean, noise.normal(*clean.shape[1:]), here)
    with torch.no_grad():
        x_s = x_t + _wide(there - here) * frozen(x_t, here * flow.TIMESTEPS)
        # at the end of the path, where `there` is 0, x_s itself
        target = x_s - _wide(there) * average(x_s, there * flow.TIMESTEPS)
    return losses.regression(x_t - _wide(here) * student(x_t, here * flow.TIMESTEPS), target)


def _block(spec: StreamSpec) -> int:
    if spec.first_chunk_frames not in (None, spec.chunk_frames):
        raise ValueError(
            f"initialisation knows chunks of one size: leave first_chunk_frames {spec.first_chunk_frames} to the stream"
        )
    return spec.chunk_frames


def _wide(levels: Tensor) -> Tensor:
    """`[B, F]` over latents."""
    return levels[:, :, None, None, None]


def _mix(x0: Tensor, noise: Tensor, levels: Tensor) -> Tensor:
    return (1 - _wide(levels)) * x0 + _wide(levels) * noise


def _nearest(levels: Tensor, timesteps: tuple[float, ...]) -> Tensor:
    """Index of each timestep in a trajectory's levels; one farther than 1 of 1000 away is an error."""
    distance, at = (levels.cpu()[None] - torch.tensor(timesteps)[:, None]).abs().min(1)
    if distance.max() > 1:
        raise ValueError(
            f"the trajectories hold timesteps {[round(v, 1) for v in levels.tolist()]}, the student steps at "
            f"{[round(v, 1) for v in timesteps]}: write them anew with the student's steps and shift"
        )
    return at
