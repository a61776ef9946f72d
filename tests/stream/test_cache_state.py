"""A copy of a cache goes on as the cache itself would have, bit for bit."""

from __future__ import annotations

import io
from typing import Any

import pytest
import torch
from torch import Tensor

from adastate.stream import StateCache
from adastate.stream.cache_state import detached, fork, restored_cache, saved
from adastate.stream.rollout import rollout
from tests.support.tiny import SHAPE, SIZE, Drawn, NetStudent, named, random_net, read_system, spec

SPECS = [
    spec(),
    spec(state_frames=3, past_frames=6, state_visibility="replace"),
    *(read_system(name) for name in ("longlive", "memrope", "reward_forcing", "rolling_sink", "causvid")),
]


def more(cache: StateCache, chunks: int, seed: int) -> Tensor:
    student = NetStudent(random_net())
    with torch.no_grad():
        made = list(rollout(student, Drawn(seed, 2), cache, chunks, SHAPE))
    return torch.cat([c.content for c in made], 1)


@pytest.mark.parametrize("stream", SPECS, ids=lambda s: named({"anchor": s.anchor, "position": s.position}))
def test_all_copies_go_on_alike_and_none_disturbs_another(stream: Any) -> None:
    cache = StateCache(stream)
    more(cache, 6, seed=1)
    file = io.BytesIO()
    torch.save(saved(cache), file)
    file.seek(0)
    copies = [fork(cache), detached(cache), restored_cache(stream, torch.load(file, weights_only=True))]
    expected = more(fork(cache), 4, seed=2)
    for copy in copies:
        assert torch.equal(more(copy, 4, seed=2), expected)
    assert (copies[0].frames, cache.frames) == (cache.frames + 4 * stream.chunk_frames, cache.frames) or (
        stream.restart_frames is not None
    )
    assert torch.equal(more(cache, 4, seed=2), expected), "the first has not moved"


@pytest.mark.parametrize(
    "stream",
    [s for s in SPECS if s.anchor_kind.in_slab],
    ids=lambda s: named({"anchor": s.anchor, "position": s.position}),
)
def test_a_cache_in_a_slab_is_forked_with_its_slab(stream: Any) -> None:
    cache = StateCache(stream, layers=SIZE.layers)
    more(cache, 6, seed=1)
    twin, third = fork(cache), fork(cache)
    expected = more(cache, 4, seed=2)
    more(third, 3, seed=5)
    assert torch.equal(more(twin, 4, seed=2), expected), "neither has written into another's places"
    assert twin._slab is not cache._slab and twin._slab is not None and twin.bytes == cache.bytes


def whole(tensor: Tensor) -> bool:
    """Whether it keeps nothing in memory but itself."""
    return tensor.untyped_storage().nbytes() == tensor.numel() * tensor.element_size()


def test_what_a_cache_remembers_holds_on_to_nothing_else() -> None:
    cache = StateCache(spec())
    more(cache, 9, seed=1)
    assert cache.recent is not None and whole(cache.recent) and cache.recent.shape[1] == cache.spec.window_frames
    thin = StateCache(spec())
    for at in range(9):
        thin.remember(torch.full((1, 3, 1, 1, 1), float(at)))  # one channel, fewer than frames
    assert thin.recent is not None and thin.recent.shape[1] == cache.spec.window_frames


def test_what_a_flush_keeps_holds_on_to_nothing_else() -> None:
    cache = StateCache(read_system("infinity_rope"))
    more(cache, 9, seed=1)
    cache.flush_to_last_places(2)
    assert cache.anchor is not None and cache.window is not None and cache.window.count == 2
    assert all(whole(x) for part in (cache.anchor, cache.window) for x in (*part.keys, *part.values))


def test_a_copy_without_a_graph() -> None:
    cache = StateCache(spec(cache_grad="straight_through"))
    list(rollout(NetStudent(random_net()), Drawn(), cache, 2, SHAPE, grad=True))
    assert cache.window is not None and cache.window.keys[0].requires_grad
    assert detached(cache).window.keys[0].requires_grad is False  # type: ignore[union-attr]
    assert not any(keys.requires_grad for keys in saved(cache)["window"]["keys"])
    assert cache.window.keys[0].requires_grad, "it is another cache's"
