"""One preview: a stream with fixed prompts and fixed noise, decoded, with its measurements."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from adastate.encoders import Codec
from adastate.encoders.batching import portions
from adastate.media.video import to_uint8
from adastate.stream import action_schedule
from adastate.stream.action_schedule import ActionCue, label_of
from adastate.types import Chunk
from callbacks.previews.measurements import measure_last_second
from callbacks.protocols import SharesAttention, Streams

Forward = Callable[[], AbstractContextManager[None]]


@dataclass(frozen=True)
class Drift:
    """How the hidden state moves along a rollout, averaged over the prompts."""

    first: int  # chunk of the first state
    step: list[float]  # |s_c - s_(c-1)| / |s_c| for every state after the first
    cosine: list[float]  # cos(s_c, s_first) for every state, starting at 1


@dataclass(frozen=True)
class Preview:
    """A decoded rollout, uint8 on the CPU: 42 chunks of 480x832 are 0.6 GB per prompt."""

    iteration: int
    horizon: int  # length in training horizons
    horizon_chunks: int  # chunks of one training horizon
    frames: int  # latent frames
    prompts: list[str]
    seed: int
    fps: int
    chunks: list[Tensor]  # pictures [B, T, 3, h, w] of each chunk
    states: list[Tensor | None]  # its decoded hidden state, [B, T', 3, h, w]
    drift: Drift | None
    attention: dict[str, list[float]]  # mean share of each kind of key, chunk by chunk
    quality: dict[str, float] = field(default_factory=dict)  # see callbacks.previews.measurements
    steered: list[str] = field(default_factory=list)  # the keys that steered each chunk; empty: not steered

    @property
    def name(self) -> str:
        return f"{self.iteration:08d}-{self.horizon}x"


def render_preview(
    module: Streams,
    prompts: list[str],
    horizon: int,
    seed: int,
    forward: Forward,
    attention: bool,
    keep: bool,
    cues: Sequence[ActionCue] = (),
) -> Preview | None:
    """Streams `horizon` training horizons; None if the module ends the stream earlier, as a teacher does.

    Args:
        forward: creates the precision context of a network pass; decoding runs outside it.
        attention: also measure the module's attention shares, if it offers them.
        keep: False only runs the passes, for ranks that take part in them but write nothing; returns None.
        cues: how all streams are steered, if the module's network can be.
    """
    frames = horizon * module.rollout_frames
    actions = preview_actions(module, frames, cues)
    # What all ranks do together comes before what only one does, so that an error in the decoder cannot leave the
    # other ranks waiting.
    made, shares = stream_rows(module, prompts, frames, seed, forward, attention, actions)
    chunks = made[0]
    if not keep or sum(chunk.frames for chunk in chunks) < frames:
        return None
    decoded = [decode_rows(module.codec, part) for part in made]
    pictures = [torch.cat(parts) for parts in zip(*(p for p, _ in decoded), strict=True)]
    states = [
        None if one is None else torch.cat([one, *others])
        for one, *others in zip(*(s for _, s in decoded), strict=True)
    ]
    hidden = [
        None if one.state is None else torch.cat([one.state, *(c.state for c in others)])
        for one, *others in zip(*made, strict=True)
    ]
    return Preview(
        iteration=module.iteration,
        horizon=horizon,
        horizon_chunks=sum(chunk.start < module.rollout_frames for chunk in chunks),
        frames=frames,
        prompts=prompts,
        seed=seed,
        fps=module.codec.fps,
        chunks=pictures,
        states=states,
        drift=state_drift(hidden),
        attention=shares,
        quality=measure_last_second(pictures, module.codec.fps),
        steered=[] if actions is None else [label_of(actions, chunk.start, chunk.frames) for chunk in chunks],
    )


def stream_rows(
    module: Streams,
    prompts: list[str],
    frames: int,
    seed: int,
    forward: Forward,
    attention: bool,
    actions: Tensor | None = None,
) -> tuple[list[list[Chunk]], dict[str, list[float]]]:
    """The network passes of a preview: (chunks of each portion of the prompts, attention shares of the first portion).

    Args:
        frames: latent frames.
        attention: also measure the module's attention shares, if it offers them.
        actions: of every latent frame `[1, F, A]`, the same for all streams.
    """
    rows = portions(len(prompts), module.latent_size)
    # no_grad rather than inference_mode: a text embedding that the module caches must stay usable in training
    with torch.no_grad(), forward():
        made = [
            list(module.stream([prompts[i] for i in some], frames, seed, index=some, **_steered(actions, len(some))))
            for some in rows
        ]
        if attention and isinstance(module, SharesAttention):
            return made, module.attention_share([prompts[i] for i in rows[0]], frames, seed)
    return made, {}


def preview_actions(module: Any, frames: int, cues: Sequence[ActionCue]) -> Tensor | None:
    """Actions of every latent frame `[1, F, A]`; None without cues, or if the network cannot be steered."""
    network = next(iter(getattr(module, "trained", {}).values()), None)  # the one that streams
    if network is None or not network.net.size.actions or not cues:
        return None
    codec = module.codec
    starts = [(codec.video_frames(before) if before else 0) / codec.fps for before in range(frames)]
    return action_schedule.action_rows(cues, starts, network.net.size.actions)


def _steered(actions: Tensor | None, streams: int) -> dict[str, Any]:
    return {} if actions is None else {"actions": actions.expand(streams, -1, -1)}


@torch.no_grad()
def decode_rows(codec: Codec, chunks: Sequence[Chunk]) -> tuple[list[Tensor], list[Any]]:
    """(pictures, states) of every chunk, uint8 on the CPU. Each state is decoded separately, as its own clip."""
    decoder = codec.stream()
    pictures = [to_uint8(decoder.decode(chunk.content)) for chunk in chunks]
    return pictures, [None if chunk.state is None else to_uint8(codec.decode(chunk.state)) for chunk in chunks]


def state_drift(states: Sequence[Tensor | None]) -> Drift | None:
    """Drift of the state latents `[B, S, C, H, W]`, chunk by chunk; None if no chunk has a state."""
    rows = [(c, s.float().flatten(1)) for c, s in enumerate(states) if s is not None]
    if not rows:
        return None
    only = [s for _, s in rows]
    step = [float(((b - a).norm(dim=1) / b.norm(dim=1).clamp_min(1e-12)).mean()) for a, b in pairwise(only)]
    cosine = [float(torch.cosine_similarity(s, only[0], dim=1).mean()) for s in only]
    return Drift(rows[0][0], step, cosine)
