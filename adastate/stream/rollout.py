"""The one loop that makes a stream. Training, previews and the command line all run it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

import torch
from torch import Tensor

from adastate import flow
from adastate.stream.cache import StateCache, View
from adastate.types import Chunk, Memory

Student = Callable[[Tensor, Tensor, Memory], Tensor]
"""(noisy latents [B, F, C, H, W], timesteps [B, F], memory) -> flow; the prompt is bound to it."""


class Noise(Protocol):
    def normal(self, *shape: int) -> Tensor:
        """The next standard normals `[B, *shape]`."""


def rollout(
    student: Student,
    noise: Noise,
    cache: StateCache,
    chunks: int,
    shape: tuple[int, int, int],
    exit_level: int | None = None,
    grad: bool = False,
    finish: bool = True,
) -> Iterator[Chunk]:
    """Yields `chunks` chunks of a stream, each denoised together with its state.

    Per chunk: one draw of fresh noise over [state | chunk], then for every level one pass, x0, and a draw that
    re-noises it to the next level (consistency sampling); then the clean pass, which writes the cache. A chunk is
    yielded before its clean pass, so that nobody waits for it.

    Args:
        student: the network with the prompt bound.
        noise: where the normals come from, in the order just told; recorded ones replay a stream.
        cache: the stream's memory; a fresh one starts a stream, a used one goes on with it.
        shape: channels, height and width of the latents.
        exit_level: stop at this level's x0 (the same for all chunks); the last one without.
        grad: run the exit pass, and it alone, with gradient (and the clean pass under `state_grad`).
        finish: run the last chunk's clean pass, too; a training rollout that ends there can spare it.
    """
    spec = cache.spec
    times = spec.timesteps
    last = len(times) - 1 if exit_level is None else exit_level
    if not 0 <= last < len(times):
        raise ValueError(f"exit level {last} does not exist: the schedule has {len(times)} levels")
    for index in range(chunks):
        queries, frames = cache.state_queries, spec.chunk_frames
        x = noise.normal(queries + frames, *shape)
        exit_view = cache.view(frames, queries, keep=grad and spec.cache_grad == "straight_through")
        quiet = cache.view(frames, queries)
        for level in range(last + 1):
            at_exit = level == last
            with torch.set_grad_enabled(grad and at_exit):
                x0 = _predict(student, x, times[level], exit_view if at_exit else quiet, spec.shift)
            if not at_exit:
                x = flow.add_noise(x0, noise.normal(*x.shape[1:]), _times(x, times[level + 1]), spec.shift)
        state, content = x0[:, :queries], x0[:, queries:]
        yield Chunk(cache.chunks, cache.frames, content, state if queries else None, last + 2)
        if finish or index < chunks - 1:
            write(student, noise, cache, x0, queries, grad, exit_view)


def write(
    student: Student,
    noise: Noise,
    cache: StateCache,
    x0: Tensor,
    queries: int,
    grad: bool = False,
    exit_view: View | None = None,
) -> None:
    """The clean pass over [state | content] `x0`, and the commit of what it wrote."""
    spec = cache.spec
    attached = grad and spec.state_grad > 0
    view = cache.view(x0.shape[1] - queries, queries, clean=True, keep=True)
    with torch.set_grad_enabled(attached):
        clean = x0 if attached else x0.detach()
        t = _times(clean, spec.context_noise)
        if spec.context_renoise:
            clean = flow.add_noise(clean, noise.normal(*clean.shape[1:]), t, spec.shift)
        student(clean, t, view)
    straight = grad and spec.cache_grad == "straight_through"
    cache.commit(view, exit_view if straight else None)


@torch.no_grad()
def prefill(student: Student, cache: StateCache, given: Tensor, first_alone: bool = False) -> None:
    """Caches given clean latents `[B, F, C, H, W]` before generation, at t = 0, block by block, without a state query.

    Blocks have the chunk's size; with `first_alone` they are 1, F, F, ... (a picture encoded by itself).
    """
    size = cache.spec.chunk_frames
    rest = given.shape[1] - (1 if first_alone else 0)
    if rest < 0 or rest % size:
        raise ValueError(
            f"{given.shape[1]} given frames do not divide into blocks of {size}" + " after the first" * first_alone
        )
    sizes = ([1] if first_alone else []) + [size] * (rest // size)
    for block in given.split(sizes, dim=1):
        view = cache.view(block.shape[1], 0, clean=True, keep=True)
        student(block, _times(block, 0.0), view)
        cache.commit(view)


def _predict(student: Student, x: Tensor, t: float, view: View, shift: float) -> Tensor:
    times = _times(x, t)
    return flow.to_x0(x, student(x, times, view), times, shift)


def _times(x: Tensor, t: float) -> Tensor:
    return torch.full(x.shape[:2], t, device=x.device)


def forced(
    student: Student, cache: StateCache, noisy: Sequence[Tensor], clean: Sequence[Tensor], t: Sequence[Tensor]
) -> Iterator[Tensor]:
    """Teacher forcing through the cache: the flow of each noisy [state | chunk], after the clean ones before it.

    It sees just what a stream sees (slots, state, window), where the masked forward over two copies knows no state.
    """
    for x, x0, times in zip(noisy, clean, t, strict=True):
        queries = x.shape[1] - cache.spec.chunk_frames
        yield student(x, times, cache.view(cache.spec.chunk_frames, queries))
        view = cache.view(cache.spec.chunk_frames, queries, clean=True, keep=True)
        with torch.no_grad():
            student(x0, _times(x0, cache.spec.context_noise), view)
        cache.commit(view)
