"""The staircase schedule: several blocks at falling noise levels in one pass (Rolling-Forcing)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from adastate.diffusion import flow
from adastate.stream.cache import StateCache
from adastate.stream.passes import Noise, VelocityNetwork, draw_noise, same_timestep, write
from adastate.stream.switches import PromptSwitch
from adastate.types import Chunk


def staircase(
    network: VelocityNetwork,
    noise: Noise,
    cache: StateCache,
    chunks: int,
    shape: tuple[int, int, int],
    finish: bool = True,
    switches: Mapping[int, PromptSwitch[VelocityNetwork]] | None = None,
    exit_level: int | None = None,
    grad: bool = False,
) -> Iterator[Chunk]:
    """Joint denoising of as many chunks as there are levels, each one level noisier than the chunk before it.

    Every pass brings all of them one level down; the first is then finished, yielded and written by a clean pass of
    its own, the others are re-noised with fresh noise, and a chunk of pure noise joins at the end. The stream fills up
    at its beginning and empties at its end. A new prompt holds from the pass in which its first chunk joins.
    """
    spec = cache.spec
    times, frames = spec.timesteps, spec.chunk_frames
    flight: list[Tensor] = []  # chunks being denoised, cleanest first
    levels: list[int] = []
    joined = 0
    while joined < chunks or flight:
        if joined < chunks:
            if switches and joined in switches:
                network = switches[joined].prompt
            flight.append(draw_noise(noise, cache.generated + len(flight), 0, 0, frames, shape))
            levels.append(0)
            joined += 1
        x = torch.cat(flight, 1)
        t = torch.cat([same_timestep(chunk, times[level]) for chunk, level in zip(flight, levels, strict=True)], 1)
        done = levels[0] == len(times) - 1
        with torch.set_grad_enabled(grad and done):
            x0 = flow.to_x0(x, network(x, t, cache.view(x.shape[1], 0)), t, spec.timestep_shift).split(frames, 1)
        levels = [level + 1 for level in levels]
        flight = [
            flow.add_noise(
                chunk.detach(),
                draw_noise(noise, cache.generated + i, level, 0, frames, shape),
                same_timestep(chunk, times[level]),
                spec.timestep_shift,
            )
            for i, (chunk, level) in enumerate(zip(x0, levels, strict=True))
            if level < len(times)
        ]
        if done:
            levels = levels[1:]
            yield Chunk(cache.generated, cache.origin + cache.frames, x0[0], None, len(times) + 1)
            cache.generated += 1
            if finish or flight or joined < chunks:
                write(network, noise, cache, x0[0], 0)
