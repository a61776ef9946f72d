"""The loop that generates a stream, in training, previews and from the command line."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from adastate.diffusion import flow
from adastate.stream.cache import PassMemory, StateCache
from adastate.stream.exits import Exits
from adastate.stream.passes import (
    ExitPass,
    Noise,
    PassRequest,
    Reencode,
    Requests,
    VelocityNetwork,
    clean_pass,
    draw_noise,
    first_noise,
    run_passes,
    same_timestep,
)
from adastate.stream.prompt_switch import restart_if_due, switching
from adastate.stream.rolling import staircase
from adastate.stream.switches import PromptSwitch
from adastate.types import Chunk


def rollout(
    network: VelocityNetwork,
    noise: Noise,
    cache: StateCache,
    chunks: int,
    shape: tuple[int, int, int],
    exits: Exits = Exits(),  # noqa: B008 - frozen
    grad: bool = False,
    finish: bool = True,
    switches: Mapping[int, PromptSwitch[VelocityNetwork]] | None = None,
    reencode: Reencode | None = None,
    record: list[ExitPass] | None = None,
) -> Iterator[Chunk]:
    """Yields `chunks` chunks of a stream, each denoised together with its state.

    Per chunk: one draw of fresh noise over [state | chunk], then for every level one pass, x0, and a draw that
    re-noises it to the next level (consistency sampling); then the clean pass, which writes the cache. A chunk is
    yielded before its clean pass, so the caller does not wait for that. For the staircase schedule see `staircase`.

    Args:
        network: the network with the prompt bound.
        noise: source of the normals, in the order above; recorded ones replay a stream, and PlacedNoise draws them by
            position.
        cache: the stream's memory; a fresh one starts a stream, a used one continues it.
        shape: channels, height and width of the latents.
        exits: the level at which each chunk stops; default: the last one.
        grad: run only the exit passes with gradient (and the clean passes under `state_grad`).
        finish: run the last chunk's clean pass, too; a training rollout that ends there does not need it.
        switches: new prompts, by the chunk of this call with which they start.
        reencode: encodes the last frames again when a stream restarts from them; default: they are used as they are.
        record: receives one ExitPass per chunk, for `replay_rollout`.
    """
    spec = cache.spec
    switches = switches or {}
    for switch in switches.values():
        spec.check_switch(switch.policy or spec.switch)
    exits.check(spec, grad)
    cache.state_phase = exits.state_phase
    if spec.schedule == "staircase":
        if record is not None:
            raise ValueError("schedule 'staircase' has several chunks in a pass, which cannot be replayed one by one")
        yield from staircase(network, noise, cache, chunks, shape, exits, grad, finish, switches)
        return
    begin = cache.origin + cache.frames
    for index in range(chunks):
        if index in switches:
            network = switches[index].prompt
            run_passes(switching(network, cache, switches[index].policy or spec.switch))
        run_passes(restart_if_due(network, cache, reencode))
        taught = grad and cache.origin + cache.frames - begin >= exits.quiet_frames
        made = run_passes(denoise_chunk(network, noise, cache, shape, exits, taught))
        if record is not None:
            record.append(made.step)
        yield made.chunk(cache)
        cache.generated += 1
        if finish or index < chunks - 1:
            clean = run_passes(clean_pass(network, noise, cache, made.x0, made.step.queries, taught, made.exit_view))
            if record is not None:
                record[-1].clean = clean


class DenoisedChunk(NamedTuple):
    """A chunk before its clean pass.

    Attributes:
        x0: [state | content] `[B, S + F, C, H, W]`.
        step: what is needed to run its exit pass again.
        exit_view: the memory of that pass.
        level: level of that pass.
    """

    x0: Tensor
    step: ExitPass
    exit_view: PassMemory
    level: int

    def chunk(self, cache: StateCache) -> Chunk:
        """As the stream yields it."""
        state, content = self.x0[:, : self.step.queries], self.x0[:, self.step.queries :]
        carried = state if self.step.queries else None
        return Chunk(cache.generated, cache.origin + cache.frames, content, carried, self.level + 2)


def denoise_chunk(
    network: VelocityNetwork,
    noise: Noise,
    cache: StateCache,
    shape: tuple[int, int, int],
    exits: Exits = Exits(),  # noqa: B008 - frozen
    taught: bool = False,
) -> Requests[DenoisedChunk]:
    """The denoising passes of a uniform stream's next chunk, the last of them with gradient if it is `taught`."""
    spec = cache.spec
    queries, frames = cache.state_queries, spec.frames_of(cache.generated)
    times, exit_at = spec.levels(cache.generated), exits.at(spec, cache.generated)
    x = first_noise(noise, cache, queries, frames, shape)
    exit_view = cache.view(frames, queries, keep=taught and spec.cache_grad == "straight_through")
    quiet = cache.view(frames, queries) if taught else exit_view
    for level in range(exit_at):
        t = same_timestep(x, times[level])
        x0 = flow.to_x0(x, (yield PassRequest(network, x, t, quiet)), t, spec.timestep_shift)
        fresh = draw_noise(noise, cache.generated, level + 1, queries, frames, shape)
        x = flow.add_noise(x0, fresh, same_timestep(x, times[level + 1]), spec.timestep_shift)
    t = same_timestep(x, times[exit_at])
    velocity = yield PassRequest(network, x, t, exit_view, taught)
    with torch.set_grad_enabled(taught):
        x0 = flow.to_x0(x, velocity, t, spec.timestep_shift)
    return DenoisedChunk(x0, ExitPass(x, t, queries), exit_view, exit_at)


def replay_rollout(network: VelocityNetwork, cache: StateCache, steps: Sequence[ExitPass]) -> Iterator[Tensor]:
    """Recomputes the x0 `[B, S + F, C, H, W]` of every recorded chunk, with gradient, one chunk at a time.

    With a detached cache no gradient crosses chunks. So a rollout can be generated without a graph, scored as a whole,
    and run again chunk by chunk, each with its own share of the gradient. The gradients are equal; the cost is one more
    exit and clean pass per chunk, and activations are those of one chunk for any length of the rollout.

    Args:
        cache: the cache with which the recorded rollout started, a fresh one or a fork.
    """
    if cache.spec.cache_grad != "detached" or cache.spec.state_grad:
        raise ValueError(
            f"replay needs a cache without gradient: cache_grad is {cache.spec.cache_grad!r}, state_grad "
            f"{cache.spec.state_grad}"
        )
    for step in steps:
        frames = step.x.shape[1] - step.queries
        with torch.enable_grad():
            velocity = network(step.x, step.t, cache.view(frames, step.queries))
            yield flow.to_x0(step.x, velocity, step.t, cache.spec.timestep_shift)
        cache.generated += 1
        if step.clean is not None:
            view = cache.view(frames, step.queries, clean=True, keep=True)
            with torch.no_grad():
                network(step.clean, same_timestep(step.clean, cache.spec.context_noise), view)
            cache.commit(view)
