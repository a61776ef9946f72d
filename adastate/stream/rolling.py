"""The staircase schedule: several blocks at falling noise levels in one pass (Rolling-Forcing)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from adastate.diffusion import flow
from adastate.stream.cache import PassMemory, StateCache
from adastate.stream.exits import Exits
from adastate.stream.passes import Noise, VelocityNetwork, draw_noise, same_timestep, write
from adastate.stream.switches import PromptSwitch
from adastate.types import Chunk


def staircase(
    network: VelocityNetwork,
    noise: Noise,
    cache: StateCache,
    chunks: int,
    shape: tuple[int, int, int],
    exits: Exits,
    grad: bool = False,
    finish: bool = True,
    switches: Mapping[int, PromptSwitch[VelocityNetwork]] | None = None,
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
    times, size = spec.timesteps, spec.chunk_frames
    flight: list[Tensor] = []  # chunks being denoised, cleanest first
    first_keys: PassMemory | None = None  # of the pass with gradient that began with the chunk in front
    for window in range(chunks + len(times) - 1):
        if window < chunks:
            if switches and window in switches:
                network = switches[window].prompt
            flight.append(draw_noise(noise, cache.generated + len(flight), 0, 0, size, shape))
        joined = min(window + 1, chunks)
        levels = [window - joined + len(flight) - i for i in range(len(flight))]
        x = torch.cat(flight, 1)
        t = torch.cat([same_timestep(chunk, times[level]) for chunk, level in zip(flight, levels, strict=True)], 1)
        chosen, finished = window % len(times) == phase, levels[0] == len(times) - 1
        quiet = joined * size <= exits.quiet_frames
        taught = grad and chosen and not quiet
        view = cache.view(x.shape[1], 0, keep=taught and spec.cache_grad == "straight_through")
        with torch.set_grad_enabled(taught):
            x0 = flow.to_x0(x, network(x, t, view), t, spec.timestep_shift).split(size, 1)
        first_keys = view if view.keeps else first_keys
        for i in range(len(flight) if chosen else int(finished and phase is None)):
            content, start = torch.zeros_like(x0[i]) if chosen and quiet else x0[i], cache.origin + cache.frames
            yield Chunk(cache.generated + i, start + i * size, content, None, levels[i] + 2)
        flight = [  # which take no graph along: until the next pass of the phase no pass has one
            flow.add_noise(
                chunk,
                draw_noise(noise, cache.generated + i, level + 1, 0, size, shape),
                same_timestep(chunk, times[level + 1]),
                spec.timestep_shift,
            )
            for i, (chunk, level) in enumerate(zip(x0, levels, strict=True))
            if level + 1 < len(times)
        ]
        if chosen and joined == chunks and not finish:
            return  # all that is left would be finished for nobody
        if finished:
            cache.generated += 1
            if finish or flight or joined < chunks:
                write(network, noise, cache, x0[0], 0, first_keys is not None, first_keys)
            first_keys = None
