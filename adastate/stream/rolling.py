"""The staircase schedule: several blocks at falling noise levels in one pass (Rolling-Forcing)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor

from adastate.diffusion import flow
from adastate.stream.cache import PassMemory, StateCache
from adastate.stream.exits import Exits
from adastate.stream.passes import (
    Noise,
    PassRequest,
    Requests,
    VelocityNetwork,
    clean_pass,
    draw_noise,
    run_passes,
    same_timestep,
)
from adastate.stream.switches import PromptSwitch
from adastate.types import Chunk


def staircase(
    network: VelocityNetwork,
    noise: Noise,
    cache: StateCache,
    chunks: int,
    shape: tuple[int, int, int],
    exits: Exits,
    grad: bool,
    finish: bool,
    switches: Mapping[int, PromptSwitch[VelocityNetwork]],
) -> Iterator[Chunk]:
    """Joint denoising of as many chunks as there are levels, each one level noisier than the chunk before it.

    Every pass brings all of them one level down. If that finishes the first, a clean pass of its own writes it. The
    others are re-noised with fresh noise, and a chunk of pure noise joins at the end. The stream fills up at its
    beginning and empties at its end. A new prompt holds from the pass in which its first chunk joins.

    At inference a chunk is output when it is finished. In training (`exits.window_phase`) every chunk is output once,
    by the one pass of the phase that holds it, from any of the levels; the cache still has finished chunks only. With
    straight-through gradients the first chunk of such a pass, and no other, keeps the gradient of its keys.
    """
    spec, phase = cache.spec, exits.window_phase
    levels_count, size = len(spec.timesteps), spec.chunk_frames
    flight: list[Tensor] = []
    first_keys: PassMemory | None = None  # of the pass with gradient that began with the chunk in front
    for window in range(chunks + levels_count - 1):
        if window < chunks:
            if window in switches:
                network = switches[window].prompt
            flight.append(next_in_flight(noise, cache, flight, shape))
        joined = min(window + 1, chunks)
        levels = [window - joined + len(flight) - i for i in range(len(flight))]
        chosen, finished = window % levels_count == phase, levels[0] == levels_count - 1
        quiet = joined * size <= exits.quiet_frames
        taught = grad and chosen and not quiet
        x0, view = run_passes(joint_pass(network, cache, flight, levels, taught))
        first_keys = view if view.keeps else first_keys
        for i in range(len(flight) if chosen else int(finished and phase is None)):
            content, start = torch.zeros_like(x0[i]) if chosen and quiet else x0[i], cache.origin + cache.frames
            yield Chunk(cache.generated + i, start + i * size, content, None, levels[i] + 2)
        flight = one_level_down(noise, cache, x0, levels, shape)
        if chosen and joined == chunks and not finish:
            return  # all that is left would be finished for nobody
        if finished:
            cache.generated += 1
            if finish or flight or joined < chunks:
                run_passes(clean_pass(network, noise, cache, x0[0], 0, first_keys is not None, first_keys))
            first_keys = None


def next_in_flight(noise: Noise, cache: StateCache, flight: Sequence[Tensor], shape: tuple[int, int, int]) -> Tensor:
    """The pure noise of the chunk that joins those in `flight`, which are being denoised, cleanest first."""
    return draw_noise(noise, cache.generated + len(flight), 0, 0, cache.spec.chunk_frames, shape)


def joint_pass(
    network: VelocityNetwork, cache: StateCache, flight: Sequence[Tensor], levels: Sequence[int], taught: bool
) -> Requests[tuple[Sequence[Tensor], PassMemory]]:
    """One pass over all chunks in flight, each at its level: their x0, and the memory of the pass."""
    spec = cache.spec
    times, x = spec.timesteps, torch.cat(list(flight), 1)
    t = torch.cat([same_timestep(chunk, times[level]) for chunk, level in zip(flight, levels, strict=True)], 1)
    view = cache.view(x.shape[1], 0, keep=taught and spec.cache_grad == "straight_through")
    velocity = yield PassRequest(network, x, t, view, taught)
    with torch.set_grad_enabled(taught):
        return flow.to_x0(x, velocity, t, spec.timestep_shift).split(spec.chunk_frames, 1), view


def one_level_down(
    noise: Noise, cache: StateCache, x0: Sequence[Tensor], levels: Sequence[int], shape: tuple[int, int, int]
) -> list[Tensor]:
    """The chunks in flight at their next levels, without those that were at the last one.

    They take no graph along: until the next pass of the phase no pass has one.
    """
    spec = cache.spec
    times = spec.timesteps
    return [
        flow.add_noise(
            chunk,
            draw_noise(noise, cache.generated + i, level + 1, 0, spec.chunk_frames, shape),
            same_timestep(chunk, times[level + 1]),
            spec.timestep_shift,
        )
        for i, (chunk, level) in enumerate(zip(x0, levels, strict=True))
        if level + 1 < len(times)
    ]
