"""What happens to the cache when the prompt changes, and frames that stand before the stream."""

from __future__ import annotations

import torch
from torch import Tensor

from adastate.stream.cache import StateCache
from adastate.stream.passes import PassRequest, Reencode, Requests, VelocityNetwork, run_passes, same_timestep
from adastate.stream.switches import SwitchPolicy


def prefill(network: VelocityNetwork, cache: StateCache, given: Tensor, first_alone: bool = False) -> None:
    """`prefilling`, run at once."""
    run_passes(prefilling(network, cache, given, first_alone))


def prefilling(network: VelocityNetwork, cache: StateCache, given: Tensor, first_alone: bool = False) -> Requests[None]:
    """Caches given clean latents `[B, F, C, H, W]` before generation, at t = 0, block by block, without a state query.

    Blocks have the chunk's size; with `first_alone` they are 1, F, F, ... (an image encoded by itself).
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
        yield PassRequest(network, block, same_timestep(block, 0.0), view)
        cache.commit(view)
        cache.remember(block)


def switch_prompt(network: VelocityNetwork, cache: StateCache, policy: SwitchPolicy) -> None:
    """`switching`, run at once."""
    run_passes(switching(network, cache, policy))


def switching(network: VelocityNetwork, cache: StateCache, policy: SwitchPolicy) -> Requests[None]:
    """What a prompt switch does to the cache; `network` has the new prompt bound."""
    cache.spec.check_switch(policy)
    reset = policy.anchor == "reset"
    if policy.kind == "recache":
        yield from _recache(network, cache, policy)
    elif policy.kind == "keep":
        cache.forget(cache.window.count if cache.window else 0, reset)
    else:
        if policy.keeps == "last_places" and cache.anchor is not None and not reset:
            cache.flush_to_last_places(policy.kept)
        else:
            cache.forget(policy.kept, reset)
        if policy.kind == "cut":
            cache.cut = policy.position


def _recache(network: VelocityNetwork, cache: StateCache, policy: SwitchPolicy) -> Requests[None]:
    """Writes the stream's last latents again, under the new prompt, in one pass in which they see each other.

    As LongLive does it: as many frames as the window has places. An anchor that is kept keeps its places, so the
    oldest of those frames have none and are left out. Without it, or where the frames reach back to the beginning,
    the anchor is made of the first of them.
    """
    spec, recent = cache.spec, cache.recent
    if recent is None:
        return
    places = spec.window_frames
    wanted = min(n for n in (policy.frames, places, recent.shape[1]) if n is not None)
    start = cache.frames - wanted
    if cache.anchor is not None and policy.anchor == "keep" and (start > 0 or spec.anchor_kind.queries is not None):
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
    yield PassRequest(network, again, same_timestep(again, spec.context_noise), view)
    cache.commit(view, counts=False)


def restart_if_due(network: VelocityNetwork, cache: StateCache, reencode: Reencode | None) -> Requests[None]:
    """CausVid's way on: a new stream from the last frames of the old one, the first of them as an image."""
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
    yield from prefilling(network, cache, given)
