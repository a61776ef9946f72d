"""Streams that come and go replay graphs on memory of their own, and no more graphs are captured than needed."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from adastate.models import captured
from adastate.models.captured import Captured
from adastate.models.wan.fused import Passes, Streamer
from adastate.stream import StateCache
from adastate.stream.cache_state import fork
from adastate.stream.rollout import rollout
from tests.support.tiny import SHAPE, SIZE, Drawn, normal, random_net, spec


class Recorded:
    """A graph without a GPU: it reads and writes the tensors that were there when it was captured, and none else."""

    made = 0

    def __init__(self, call: Callable[..., Tensor | None], inputs: list[Tensor]) -> None:
        Recorded.made += 1
        self.call, self.inputs = call, [t.clone() for t in inputs]
        for _ in range(2):
            call(*self.inputs)

    def __call__(self, inputs: list[Tensor]) -> Tensor | None:
        for mine, given in zip(self.inputs, inputs, strict=True):
            mine.copy_(given)
        return self.call(*self.inputs)


@pytest.fixture(autouse=True)
def without_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(captured, "Graph", Recorded)
    Recorded.made = 0


def passes(engine: bool, past: int = 3) -> tuple[Passes, Any]:
    net = random_net()
    made = Passes(net)
    if engine:
        made.steady, made._quiet = Captured(made.run), torch.no_grad
    return made, made.steady


@torch.no_grad()  # of a generator: during its steps alone
def stream(made: Passes, seed: int, chunks: int = 8, cache: StateCache | None = None, **options: Any) -> Iterator[Any]:
    text = normal(1, SIZE.text_tokens, SIZE.text_width, seed=seed)
    student = Streamer(made.net, made.net.text_keys(text), passes=made)
    drawn = Drawn(seed=seed) if cache is None else Drawn(seed=99)
    cache = StateCache(spec(**options), layers=SIZE.layers) if cache is None else cache
    yield from rollout(student, drawn, cache, chunks, SHAPE)


def content(chunks: Any) -> list[Tensor]:
    return [c.content.clone() for c in chunks]


def equal(a: list[Tensor], b: list[Tensor]) -> bool:
    return len(a) == len(b) and all(torch.allclose(x, y, atol=2e-5) for x, y in zip(a, b, strict=True))


def test_one_stream_after_the_other_takes_the_graphs_of_the_first() -> None:
    plain, (made, engine) = passes(False)[0], passes(True)
    for seed in (7, 8, 9):
        assert equal(content(stream(made, seed)), content(stream(plain, seed)))
        gc.collect()
    assert Recorded.made == 2 and len(engine._rooms) == 1, "denoising and clean passes"


def test_streams_side_by_side_have_graphs_of_their_own_and_keep_them() -> None:
    plain, (made, engine) = passes(False)[0], passes(True)
    streams, found = [stream(made, seed) for seed in (7, 8)], [list[Tensor](), list[Tensor]()]
    for pair in zip(*streams, strict=True):
        for into, chunk in zip(found, pair, strict=True):
            into.append(chunk.content.clone())
    for seed, chunks in zip((7, 8), found, strict=True):
        assert equal(chunks, content(stream(plain, seed)))
    assert Recorded.made == 4
    del streams, pair, chunk
    gc.collect()
    assert equal(content(stream(made, 9)), content(stream(plain, 9)))
    assert Recorded.made == 4 and len(engine._rooms) <= 2, "one that has ended is enough for the next"


def test_a_fork_goes_its_own_way() -> None:
    plain, (made, _) = passes(False)[0], passes(True)
    ends = []
    for own in (plain, made):
        cache = StateCache(spec(), layers=SIZE.layers)
        list(stream(own, 7, cache=cache))
        other = fork(cache)
        first = content(stream(own, 8, 3, cache=other))
        ends.append(first + content(stream(own, 7, 3, cache=cache)))
    assert equal(*ends)


@pytest.mark.slow
def test_a_stream_of_another_size_gets_a_room_of_its_own_and_frees_what_nobody_needs() -> None:
    plain, (made, engine) = passes(False)[0], passes(True)
    for past in (3, 6, 3, 6):
        mine, theirs = (content(stream(p, 7, 10, past_frames=past)) for p in (made, plain))
        assert equal(mine, theirs)
        gc.collect()
        assert len(engine._rooms) <= 1 + captured.SPARE
    assert Recorded.made == 4, "both are kept"


def test_a_graph_holds_on_to_its_memory() -> None:
    made, engine = passes(True)
    list(stream(made, 7))
    gc.collect()
    (room,) = engine._rooms
    assert room.stream() is None
    held = {t.data_ptr() for t in room.tensors if t is not None}
    list(stream(made, 8, past_frames=6))
    assert held.isdisjoint(t.data_ptr() for r in engine._rooms if r is not room for t in r.tensors if t is not None)


def test_the_kind_of_a_graph_tells_shapes_and_dtypes_of_all_that_moves() -> None:
    made, engine = passes(True)
    list(stream(made, 7))
    kinds = [kind for room in engine._rooms for kind in room.graphs]
    assert {(clean, keeps) for clean, keeps, *_ in kinds} == {(False, False), (True, True)}
    assert all(any(isinstance(part, tuple) and torch.float32 in part for part in kind) for kind in kinds)
