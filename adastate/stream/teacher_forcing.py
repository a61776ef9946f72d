"""Teacher forcing chunk by chunk through the cache."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from adastate.stream.cache import StateCache
from adastate.stream.passes import VelocityNetwork, same_timestep


def teacher_forced_chunks(
    network: VelocityNetwork, cache: StateCache, noisy: Sequence[Tensor], clean: Sequence[Tensor], t: Sequence[Tensor]
) -> Iterator[Tensor]:
    """Teacher forcing through the cache: the velocity of each noisy [state | chunk], after the clean ones before it.

    It sees just what a stream sees (slots, state, window), where the masked forward over two copies knows no state.
    """
    for x, x0, times in zip(noisy, clean, t, strict=True):
        queries = x.shape[1] - cache.spec.chunk_frames
        yield network(x, times, cache.view(cache.spec.chunk_frames, queries))
        view = cache.view(cache.spec.chunk_frames, queries, clean=True, keep=True)
        with torch.no_grad():
            network(x0, same_timestep(x0, cache.spec.context_noise), view)
        cache.commit(view)
