"""The network over all blocks of clips at once, each block after the past that it may see."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from adastate.models.actions import Steering, given
from adastate.models.masks import block_causal, teacher_forcing
from adastate.models.video_network import VideoNetwork
from adastate.stream import StateCache, StreamSpec
from adastate.stream.teacher_forcing import teacher_forced_chunks
from adastate.training.prompted_network import PromptedNetwork
from adastate.types import Batch

StateTarget = Literal["none", "first", "last"]
"""What a state is taught: nothing, or these frames of its own chunk."""


@dataclass(frozen=True)
class Pairs:
    """Clips `[B, F, C, H, W]` with one level for every block.

    Attributes:
        noisy: what the network sees.
        clean: clips for the past.
        t: timesteps `[B, F]` of `noisy`.
        target: x0 for a regression, else the velocity.
        actions: of each frame `[B, F, A + 1]`, on the host, where the data has them.
    """

    noisy: Tensor
    clean: Tensor
    t: Tensor
    target: Tensor
    actions: Tensor | None = None


def teacher_forcing_forward(
    net: VideoNetwork,
    noisy: Tensor,
    clean: Tensor,
    t: Tensor,
    text: Tensor,
    spec: StreamSpec,
    actions: Tensor | None = None,
) -> Tensor:
    """Velocity `[B, F, C, H, W]` of all blocks of `noisy`, each after the clean blocks before it (teacher forcing), in
    one forward over [clean copy | noisy copy], both of which have the `actions` [B, F, A + 1]."""
    frames = clean.shape[1]
    mask = teacher_forcing(frames, spec.chunk_frames, spec.past_frames)
    both, times = torch.cat([clean, noisy], 1), torch.cat([torch.zeros_like(t), t], 1)
    twice = None if actions is None else torch.cat([actions, actions], 1).to(noisy.device, non_blocking=True)
    return net(both, times, text, positions=[*range(frames)] * 2, visible=mask, actions=twice)[:, frames:]


def block_causal_forward(
    net: VideoNetwork, noisy: Tensor, t: Tensor, text: Tensor, spec: StreamSpec, actions: Tensor | None = None
) -> Tensor:
    """Velocity of all blocks in one block-causal forward, each of which sees the past at that past's own levels."""
    past, block = spec.past_frames, spec.chunk_frames
    mask = block_causal(noisy.shape[1], block, None if past is None else past + block)
    told = None if actions is None else actions.to(noisy.device, non_blocking=True)
    return net(noisy, t, text, visible=mask, actions=told)


def after_clean_past(
    net: VideoNetwork, pairs: Pairs, text: Tensor, spec: StreamSpec, target: StateTarget
) -> tuple[Tensor, Pairs]:
    """(velocity, pairs) after a clean past: in one forward, or through the cache where states are taught."""
    if target != "none":
        return teacher_forcing_through_cache(net, pairs, text, spec, target)
    return teacher_forcing_forward(net, pairs.noisy, pairs.clean, pairs.t, text, spec, pairs.actions), pairs


def teacher_forcing_through_cache(
    net: VideoNetwork, pairs: Pairs, text: Tensor, spec: StreamSpec, target: Literal["first", "last"]
) -> tuple[Tensor, Pairs]:
    """(velocity, pairs) of teacher forcing chunk by chunk through the cache, each chunk led by a state.

    A state is taught the `target` frames of its own chunk, so the pairs that come back have these in its place.

    Raises:
        ValueError: a state has more frames than a chunk.
    """
    size, queries = spec.chunk_frames, spec.state_frames
    if queries > size:
        raise ValueError(f"a chunk of {size} frames has none to teach {queries} state frames; set state_target: none")
    at = slice(0, queries) if target == "first" else slice(size - queries, size)

    def with_state(x: Tensor) -> list[Tensor]:
        return [torch.cat([chunk[:, at], chunk], 1) for chunk in x.split(size, 1)]

    parts = [with_state(x) for x in (pairs.noisy, pairs.clean, pairs.t, pairs.target)]
    steering = None if pairs.actions is None else Steering(pairs.actions)  # states have no actions
    predicted = teacher_forced_chunks(PromptedNetwork(net, text, steering=steering), StateCache(spec), *parts[:3])
    return torch.cat(list(predicted), 1), Pairs(*(torch.cat(part, 1) for part in parts))


def check_state_target(target: StateTarget, spec: StreamSpec) -> None:
    if target != "none" and spec.anchor != "state":
        raise ValueError(f"state_target {target!r} needs anchor: state, not {spec.anchor!r}")


def flagged(batch: Batch) -> Tensor | None:
    """A batch's actions as the network takes them, `[B, F, A + 1]`, on the host; None where it has none."""
    return None if batch.actions is None else given(batch.actions)


def clean_clips(batch: Batch, spec: StreamSpec, asked_by: str) -> Tensor:
    """Latents `[B, F, C, H, W]` of a batch.

    Raises:
        ValueError: there are none, or they are no whole number of chunks.
    """
    if batch.latents is None:
        raise ValueError(f"{asked_by} needs latents; use ShardData, WorldData(clips=...) or TrajectoryData")
    spec.chunks(batch.latents.shape[1])
    return batch.latents


def block_frames(spec: StreamSpec) -> int:
    """Frames of a block, the stream's chunk.

    Raises:
        ValueError: chunks have two sizes.
    """
    if spec.first_chunk_frames not in (None, spec.chunk_frames):
        raise ValueError(
            f"initialisation knows chunks of one size: leave first_chunk_frames {spec.first_chunk_frames} to the stream"
        )
    return spec.chunk_frames
