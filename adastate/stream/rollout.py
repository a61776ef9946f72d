"""The one loop that makes a stream. Training, previews and the command line all run it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from adastate import flow
from adastate.noise import PlacedNoise
from adastate.stream.cache import StateCache, View
from adastate.stream.spec import Switch
from adastate.types import Chunk, Memory, one_level

Student = Callable[[Tensor, Tensor, Memory], Tensor]
"""(noisy latents [B, F, C, H, W], timesteps [B, F], memory) -> flow; the prompt is bound to it."""

Reencode = Callable[[Tensor, int], Tensor]
"""(a stream's last latents [B, F, C, H, W], n) -> the first of the last n, encoded as a picture [B, 1, C, H, W]."""


class Noise(Protocol):
    def normal(self, *shape: int) -> Tensor:
        """The next standard normals `[B, *shape]`."""


@dataclass
class Step:
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


@dataclass(frozen=True)
class Scene:
    """A new prompt within a stream.

    Attributes:
        student: the network with the new prompt bound, so with text keys of its own.
        switch: what becomes of the cache; None takes the stream's own choice.
    """

    student: Student
    switch: Switch | None = None


def rollout(
    student: Student,
    noise: Noise,
    cache: StateCache,
    chunks: int,
    shape: tuple[int, int, int],
    exit_level: int | None = None,
    grad: bool = False,
    finish: bool = True,
    scenes: Mapping[int, Scene] | None = None,
    reencode: Reencode | None = None,
    record: list[Step] | None = None,
) -> Iterator[Chunk]:
    """Yields `chunks` chunks of a stream, each denoised together with its state.

    Per chunk: one draw of fresh noise over [state | chunk], then for every level one pass, x0, and a draw that
    re-noises it to the next level (consistency sampling); then the clean pass, which writes the cache. A chunk is
    yielded before its clean pass, so that nobody waits for it. For the staircase schedule see `staircase`.

    Args:
        student: the network with the prompt bound.
        noise: where the normals come from, in the order just told; recorded ones replay a stream, and PlacedNoise
            gives each its place.
        cache: the stream's memory; a fresh one starts a stream, a used one goes on with it.
        shape: channels, height and width of the latents.
        exit_level: stop at this level's x0 (the same for all chunks); the last one without. A first chunk with a list
            of its own stops as many levels before its end.
        grad: run the exit pass, and it alone, with gradient (and the clean pass under `state_grad`).
        finish: run the last chunk's clean pass, too; a training rollout that ends there can spare it.
        scenes: new prompts, by the chunk of this call with which they begin.
        reencode: used by a stream that restarts from its own last frames; without, they are taken as they are.
        record: takes one Step a chunk, for `replay`.
    """
    spec = cache.spec
    scenes = scenes or {}
    for scene in scenes.values():
        spec.check_switch(scene.switch or spec.switch)
    last = len(spec.timesteps) - 1 if exit_level is None else exit_level
    if not 0 <= last < len(spec.timesteps):
        raise ValueError(f"exit level {last} does not exist: the schedule has {len(spec.timesteps)} levels")
    if spec.schedule == "staircase":
        if record is not None:
            raise ValueError("schedule 'staircase' has several chunks in a pass, which cannot be replayed one by one")
        yield from staircase(student, noise, cache, chunks, shape, finish, scenes, last, grad)
        return
    for index in range(chunks):
        if index in scenes:
            student = scenes[index].student
            switch_prompt(student, cache, scenes[index].switch or spec.switch)
        _restart_if_due(student, cache, reencode)
        queries, frames = cache.state_queries, spec.frames_of(cache.generated)
        times = spec.levels(cache.generated)
        exit_at = max(0, len(times) - len(spec.timesteps) + last)
        x = _first_noise(noise, cache, queries, frames, shape)
        exit_view = cache.view(frames, queries, keep=grad and spec.cache_grad == "straight_through")
        quiet = cache.view(frames, queries) if grad else exit_view
        for level in range(exit_at + 1):
            at_exit = level == exit_at
            with torch.set_grad_enabled(grad and at_exit):
                x0 = _predict(student, x, _times(x, times[level]), exit_view if at_exit else quiet, spec.shift)
            if not at_exit:
                fresh = _draw(noise, cache.generated, level + 1, queries, frames, shape)
                x = flow.add_noise(x0, fresh, _times(x, times[level + 1]), spec.shift)
        if record is not None:
            record.append(Step(x, _times(x, times[exit_at]), queries))
        state, content = x0[:, :queries], x0[:, queries:]
        start = cache.origin + cache.frames
        yield Chunk(cache.generated, start, content, state if queries else None, exit_at + 2)
        cache.generated += 1
        if finish or index < chunks - 1:
            clean = write(student, noise, cache, x0, queries, grad, exit_view)
            if record is not None:
                record[-1].clean = clean


def replay(student: Student, cache: StateCache, steps: Sequence[Step]) -> Iterator[Tensor]:
    """The x0 `[B, S + F, C, H, W]` of every recorded chunk once more, with gradient, one chunk at a time.

    With a detached cache no gradient crosses chunks. So a rollout can be made without a graph, scored as a whole, and
    then be run again chunk by chunk, each with its own share of the gradient: equal gradients, at the price of one
    more exit and clean pass a chunk, and the activations of one chunk however long the rollout.

    Args:
        cache: as the recorded rollout began with, a fresh one or a fork.
    """
    if cache.spec.cache_grad != "detached" or cache.spec.state_grad:
        raise ValueError(
            f"replay needs a cache without gradient: cache_grad is {cache.spec.cache_grad!r}, state_grad "
            f"{cache.spec.state_grad}"
        )
    for step in steps:
        frames = step.x.shape[1] - step.queries
        with torch.enable_grad():
            yield _predict(student, step.x, step.t, cache.view(frames, step.queries), cache.spec.shift)
        cache.generated += 1
        if step.clean is not None:
            view = cache.view(frames, step.queries, clean=True, keep=True)
            with torch.no_grad():
                student(step.clean, _times(step.clean, cache.spec.context_noise), view)
            cache.commit(view)


def staircase(
    student: Student,
    noise: Noise,
    cache: StateCache,
    chunks: int,
    shape: tuple[int, int, int],
    finish: bool = True,
    scenes: Mapping[int, Scene] | None = None,
    exit_level: int | None = None,
    grad: bool = False,
) -> Iterator[Chunk]:
    """Joint denoising of as many chunks as there are levels, each one level noisier than the chunk before it.

    Every pass brings all of them one level down; the first is then finished, yielded and written by a clean pass of
    its own, the others are re-noised with fresh noise, and a chunk of pure noise joins at the end. The stream fills up
    at its beginning and empties at its end. A new scene's prompt holds from the pass in which its first chunk joins.
    """
    spec = cache.spec
    times, frames = spec.timesteps, spec.chunk_frames
    flight: list[Tensor] = []  # chunks being denoised, cleanest first
    levels: list[int] = []
    joined = 0
    while joined < chunks or flight:
        if joined < chunks:
            if scenes and joined in scenes:
                student = scenes[joined].student
            flight.append(_draw(noise, cache.generated + len(flight), 0, 0, frames, shape))
            levels.append(0)
            joined += 1
        x = torch.cat(flight, 1)
        t = torch.cat([_times(chunk, times[level]) for chunk, level in zip(flight, levels, strict=True)], 1)
        done = levels[0] == len(times) - 1
        with torch.set_grad_enabled(grad and done):
            x0 = _predict(student, x, t, cache.view(x.shape[1], 0), spec.shift).split(frames, 1)
        levels = [level + 1 for level in levels]
        flight = [
            flow.add_noise(
                chunk.detach(),
                _draw(noise, cache.generated + i, level, 0, frames, shape),
                _times(chunk, times[level]),
                spec.shift,
            )
            for i, (chunk, level) in enumerate(zip(x0, levels, strict=True))
            if level < len(times)
        ]
        if done:
            levels = levels[1:]
            yield Chunk(cache.generated, cache.origin + cache.frames, x0[0], None, len(times) + 1)
            cache.generated += 1
            if finish or flight or joined < chunks:
                write(student, noise, cache, x0[0], 0)


def write(
    student: Student,
    noise: Noise,
    cache: StateCache,
    x0: Tensor,
    queries: int,
    grad: bool = False,
    exit_view: View | None = None,
) -> Tensor:
    """The clean pass over [state | content] `x0`, and the commit of what it wrote; returns the pass's input."""
    spec = cache.spec
    attached = grad and spec.state_grad > 0
    view = cache.view(x0.shape[1] - queries, queries, clean=True, keep=True)
    with torch.set_grad_enabled(attached):
        clean = x0 if attached else x0.detach()
        t = _times(clean, spec.context_noise)
        if spec.context_renoise:
            fresh = _draw(noise, cache.generated, -1, queries, clean.shape[1] - queries, _shape(clean))
            clean = flow.add_noise(clean, fresh, t, spec.shift)
        student(clean, t, view)
    straight = grad and spec.cache_grad == "straight_through"
    cache.commit(view, exit_view if straight else None)
    cache.remember(x0[:, queries:])
    return clean


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
        cache.remember(block)


@torch.no_grad()
def switch_prompt(student: Student, cache: StateCache, switch: Switch) -> None:
    """What a prompt switch does to the cache; `student` has the new prompt bound."""
    cache.spec.check_switch(switch)
    reset = switch.anchor == "reset"
    if switch.kind == "recache":
        _recache(student, cache, switch)
    elif switch.kind == "keep":
        cache.forget(cache.window.count if cache.window else 0, reset)
    else:
        cache.forget(switch.kept, reset)
        if switch.kind == "cut":
            cache.cut = switch.position


def _recache(student: Student, cache: StateCache, switch: Switch) -> None:
    """Writes the stream's last latents again, under the new prompt, in one pass in which they see each other.

    As LongLive does it: as many frames as the window has places. An anchor that is kept keeps its places, so the
    oldest of those frames have none and are left out. Without it, or where the frames reach back to the beginning,
    the anchor is made of the first of them.
    """
    spec, recent = cache.spec, cache.recent
    if recent is None:
        return
    places = spec.window_frames
    wanted = min(n for n in (switch.frames, places, recent.shape[1]) if n is not None)
    start = cache.frames - wanted
    if cache.anchor is not None and switch.anchor == "keep" and (start > 0 or spec.anchor == "state"):
        room = None if places is None else places - cache.anchor.count
        if spec.warmup == "fixed" and spec.position == "slot":
            room = spec.past_frames
        wanted = wanted if room is None else min(wanted, room)
    else:
        cache.anchor = None
        if spec.warmup == "fixed" and spec.position == "slot" and spec.past_frames is not None:
            wanted = min(wanted, spec.past_frames)
    if not wanted:
        return
    cache.forget(0, anchor=False)
    cache.frames -= wanted
    again = recent[:, -wanted:]
    view = cache.view(wanted, 0, clean=True, keep=True, recache=True)
    student(again, _times(again, spec.context_noise), view)
    cache.commit(view, counts=False)


@torch.no_grad()
def _restart_if_due(student: Student, cache: StateCache, reencode: Reencode | None) -> None:
    """CausVid's way on: a new stream from the last frames of the old one, the first of them as a picture."""
    spec = cache.spec
    if spec.restart_frames is None or cache.frames + spec.chunk_frames <= spec.restart_frames:
        return
    assert cache.recent is not None
    given = cache.recent[:, -spec.restart_overlap :]
    if reencode is not None:
        given = torch.cat([reencode(cache.recent, spec.restart_overlap), given[:, 1:]], 1)
    generated = cache.generated
    cache.reset(origin=cache.origin + cache.frames - spec.restart_overlap)
    cache.generated = generated
    prefill(student, cache, given)


def _first_noise(noise: Noise, cache: StateCache, queries: int, frames: int, shape: tuple[int, int, int]) -> Tensor:
    if not cache.spec.shared_noise:
        return _draw(noise, cache.generated, 0, queries, frames, shape)
    if cache.shared_noise is None:
        cache.shared_noise = _draw(noise, 0, 0, queries, frames, shape)
    return cache.shared_noise


def _draw(noise: Noise, chunk: int, level: int, queries: int, frames: int, shape: tuple[int, int, int]) -> Tensor:
    """Normals for [state | content]: the next ones of a source, or those of this place."""
    if not isinstance(noise, PlacedNoise):
        return noise.normal(queries + frames, *shape)
    content = noise.at(chunk, level, "content").normal(frames, *shape)
    if not queries:
        return content
    return torch.cat([noise.at(chunk, level, "state").normal(queries, *shape), content], 1)


def _predict(student: Student, x: Tensor, times: Tensor, view: View, shift: float) -> Tensor:
    return flow.to_x0(x, student(x, times, view), times, shift)


def _shape(x: Tensor) -> tuple[int, int, int]:
    return (x.shape[2], x.shape[3], x.shape[4])


def _times(x: Tensor, t: float) -> Tensor:
    return one_level(x.shape[0], x.shape[1], t, x.device)


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
