"""One preview: a stream with fixed prompts and fixed noise, decoded, with the measurements that belong to it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from itertools import pairwise

import torch
from torch import Tensor

from adastate.media import to_uint8
from callbacks.quality import measure
from callbacks.streams import SharesAttention, Streams

Forward = Callable[[], AbstractContextManager[None]]


@dataclass(frozen=True)
class Drift:
    """How the hidden state moves along a rollout, averaged over the prompts."""

    first: int  # chunk of the first state
    step: list[float]  # |s_c - s_(c-1)| / |s_c| for every state after the first
    cosine: list[float]  # cos(s_c, s_first) for every state, so it begins with 1


@dataclass(frozen=True)
class Preview:
    """A decoded rollout, in bytes on the CPU: B x 42 chunks of 480x832 are 0.6 GB a prompt."""

    iteration: int
    horizon: int  # length in training horizons
    horizon_chunks: int  # chunks of one training horizon
    frames: int  # latent frames
    prompts: list[str]
    seed: int
    fps: int
    chunks: list[Tensor]  # pictures [B, T, 3, h, w] that each chunk added
    states: list[Tensor | None]  # its decoded hidden state, [B, T', 3, h, w]
    drift: Drift | None
    attention: dict[str, list[float]]  # mean share of each kind of key, chunk by chunk
    quality: dict[str, float] = field(default_factory=dict)  # see callbacks.quality

    @property
    def name(self) -> str:
        return f"{self.iteration:08d}-{self.horizon}x"


def render(
    module: Streams,
    prompts: list[str],
    horizon: int,
    seed: int,
    forward: Forward,
    attention: bool,
    keep: bool,
) -> Preview | None:
    """Streams `horizon` training horizons; None if the module ends the stream earlier, as a teacher does.

    Args:
        forward: makes the precision context of a network pass; decoding stays outside of it.
        attention: ask the module for its attention shares as well, if it can tell.
        keep: False only runs the passes, for ranks that have to take part in them and write nothing. Gives None.
    """
    frames = horizon * module.rollout_frames
    # no_grad and not inference_mode: a text embedding that the module remembers must stay usable in training.
    # Everything that all ranks do together comes before anything that only one does, so that an error in the
    # decoder cannot leave the others waiting.
    with torch.no_grad(), forward():
        chunks = list(module.stream(prompts, frames, seed))
        shares: dict[str, list[float]] = {}
        if attention and isinstance(module, SharesAttention):
            shares = module.attention_share(prompts, frames, seed)
    if not keep or sum(chunk.frames for chunk in chunks) < frames:
        return None
    with torch.no_grad():
        decoder = module.codec.stream()
        pictures = [to_uint8(decoder.decode(chunk.content)) for chunk in chunks]
        # A state is a clip of its own: its decoder knows nothing of the stream's.
        states = [None if chunk.state is None else to_uint8(module.codec.decode(chunk.state)) for chunk in chunks]
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
        drift=drift([chunk.state for chunk in chunks]),
        attention=shares,
        quality=measure(pictures, module.codec.fps),
    )


def drift(states: Sequence[Tensor | None]) -> Drift | None:
    """Of latents `[B, S, C, H, W]`, chunk by chunk; None if no chunk has a state."""
    rows = [(c, s.float().flatten(1)) for c, s in enumerate(states) if s is not None]
    if not rows:
        return None
    only = [s for _, s in rows]
    step = [float(((b - a).norm(dim=1) / b.norm(dim=1).clamp_min(1e-12)).mean()) for a, b in pairwise(only)]
    cosine = [float(torch.cosine_similarity(s, only[0], dim=1).mean()) for s in only]
    return Drift(rows[0][0], step, cosine)
