"""Single network passes of a stream: what goes in, what is written to the cache, and the types that they share."""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import NamedTuple, Protocol, TypeVar

import torch
from torch import Tensor

from adastate.diffusion import flow
from adastate.diffusion.noise import PlacedNoise
from adastate.stream.cache import PassMemory, StateCache
from adastate.types import Memory, one_level

VelocityNetwork = Callable[[Tensor, Tensor, Memory], Tensor]
"""(noisy latents [B, F, C, H, W], timesteps [B, F], memory) -> velocity; the prompt is bound to it."""

Reencode = Callable[[Tensor, int], Tensor]
"""(a stream's last latents [B, F, C, H, W], n) -> the first of the last n, encoded as an image [B, 1, C, H, W]."""


class PassRequest(NamedTuple):
    """One network pass that a stream needs run: its velocity is sent back."""

    network: VelocityNetwork
    x: Tensor
    t: Tensor
    memory: PassMemory
    grad: bool = False


R = TypeVar("R")
Requests = Generator[PassRequest, Tensor, R]
"""A piece of a stream that asks for its passes, and ends with a result. Whoever runs them may run those of several
streams together: `run_passes` runs one piece alone, adastate.live.batch many."""


def run_passes(requests: Requests[R]) -> R:
    """Runs the passes that a piece of a stream asks for, and returns its result."""
    try:
        request = next(requests)
        while True:
            with torch.set_grad_enabled(request.grad):
                velocity = request.network(request.x, request.t, request.memory)
                if request.grad and request.memory.keeps:
                    request.memory.follow(velocity)
            request = requests.send(velocity)
    except StopIteration as end:
        return end.value  # type: ignore[no-any-return]


class Noise(Protocol):
    def normal(self, *shape: int) -> Tensor:
        """The next standard normals `[B, *shape]`."""


@dataclass
class ExitPass:
    """What it takes to run a chunk's exit pass again: see `replay`.

    Attributes:
        x: noisy [state | content] at the exit level, `[B, S + F, C, H, W]`.
        t: that level, `[B, S + F]`.
        queries: state frames S.
        clean: input of the clean pass; None where that was spared.
    """

    x: Tensor
    t: Tensor
    queries: int
    clean: Tensor | None = None


def clean_pass(
    network: VelocityNetwork,
    noise: Noise,
    cache: StateCache,
    x0: Tensor,
    queries: int,
    grad: bool = False,
    exit_view: PassMemory | None = None,
) -> Requests[Tensor]:
    """The clean pass over [state | content] `x0`, and the commit of what it wrote; returns the pass's input."""
    spec = cache.spec
    attached = grad and spec.state_grad > 0
    view = cache.view(x0.shape[1] - queries, queries, clean=True, keep=True)
    with torch.set_grad_enabled(attached):
        clean = x0 if attached else x0.detach()
        t = same_timestep(clean, spec.context_noise)
        if spec.context_renoise:
            fresh = draw_noise(noise, cache.generated, -1, queries, clean.shape[1] - queries, frame_shape(clean))
            clean = flow.add_noise(clean, fresh, t, spec.timestep_shift)
    yield PassRequest(network, clean, t, view, attached)
    straight = grad and spec.cache_grad == "straight_through"
    cache.commit(view, exit_view if straight else None)
    cache.remember(x0[:, queries:])
    return clean


def first_noise(noise: Noise, cache: StateCache, queries: int, frames: int, shape: tuple[int, int, int]) -> Tensor:
    if not cache.spec.shared_noise:
        return draw_noise(noise, cache.generated, 0, queries, frames, shape)
    if cache.shared_noise is None:
        cache.shared_noise = draw_noise(noise, 0, 0, queries, frames, shape)
    return cache.shared_noise


def draw_noise(noise: Noise, chunk: int, level: int, queries: int, frames: int, shape: tuple[int, int, int]) -> Tensor:
    """Normals for [state | content]: the next ones of a source, or those of this place."""
    if not isinstance(noise, PlacedNoise):
        return noise.normal(queries + frames, *shape)
    content = noise.at(chunk, level, "content").normal(frames, *shape)
    if not queries:
        return content
    return torch.cat([noise.at(chunk, level, "state").normal(queries, *shape), content], 1)


def frame_shape(x: Tensor) -> tuple[int, int, int]:
    return (x.shape[2], x.shape[3], x.shape[4])


def same_timestep(x: Tensor, t: float) -> Tensor:
    return one_level(x.shape[0], x.shape[1], t, x.device)
