"""Equals the passes that it captures, for any number of streams: tests/models/test_captured.py.

A CUDA graph reads and writes the addresses that it was captured with, including those of the stream's slab. So a graph
keeps its tensors, and a stream that starts after another has ended is moved to that one's memory (`_Room`): this takes
one copy, and the same graphs serve it. Concurrent streams have a room each.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable

import torch
from torch import Tensor

from adastate.models.engine_pass import EnginePass, Modulations, Run, written
from adastate.types import SlabOwner, SlabTensors

SPARE = 1
"""Number of free rooms that are kept for future streams; each holds the memory of one."""


class Captured:
    """Passes as CUDA graphs: one per kind and room; small inputs are copied to where the graph reads them."""

    def __init__(self, run: Run) -> None:
        self._run = written(run)
        self._rooms: list[_Room] = []

    def __call__(
        self, patches: Tensor, made: Modulations, pass_: EnginePass, slots: SlabTensors, clean: bool
    ) -> Tensor | None:
        assert made.stacked is not None
        room = self._room(slots.owner)
        text = [t for pair in pass_.text for t in pair]
        moving = [patches, *made.stacked, pass_.table, slots.rows, *text]
        keeps, batch, frame_tokens = slots.raw is not None, pass_.batch, pass_.frame_tokens
        kind = (clean, keeps, batch, frame_tokens, *((t.shape, t.dtype, t.device) for t in moving))
        if kind not in room.graphs:
            keys, values, raw = room.tensors

            # a function of tensors and numbers alone: a graph that held a pass would keep its stream alive
            def call(
                patches: Tensor, m: Tensor, h: Tensor, table: Tensor, index: Tensor, *text: Tensor
            ) -> Tensor | None:
                pairs = list(zip(text[::2], text[1::2], strict=True))
                fixed = (keys, values, raw if keeps else None, index)
                return self._run(patches, m, h, table, *fixed, pairs, batch, frame_tokens, clean)

            room.graphs[kind] = Graph(call, moving)
        return room.graphs[kind](moving)

    def _room(self, stream: SlabOwner) -> _Room:
        """The room of `stream`; if it has none, it moves into a free room of the same shapes, or into a new one."""
        for room in self._rooms:
            if room.stream() is stream and _same(room.tensors, _tensors(stream)):
                return room
        self._rooms = [room for room in self._rooms if room.stream() is not stream]  # its slab no longer fits there
        free = [room for room in self._rooms if room.stream() is None]
        found = next((room for room in free if _fit(room.tensors, _tensors(stream))), None)
        if found is None:
            found = _Room(_tensors(stream))
            self._rooms.append(found)
        else:
            free.remove(found)
            found.take(stream)
        found.stream = weakref.ref(stream)
        spare = free[-SPARE:] if SPARE else []
        self._rooms = [room for room in self._rooms if room.stream() is not None or room in spare]
        return found


Tensors = tuple[Tensor, Tensor, Tensor | None]
"""Keys, values and raw keys of a slab."""


def _tensors(stream: SlabOwner) -> Tensors:
    assert stream.keys is not None and stream.values is not None
    return stream.keys, stream.values, stream.raw


def _same(a: Tensors, b: Tensors) -> bool:
    return all(x is y for x, y in zip(a, b, strict=True))


def _fit(a: Tensors, b: Tensors) -> bool:
    """Whether they have the same shapes and dtypes."""

    def form(t: Tensor | None) -> object:
        return None if t is None else (t.shape, t.stride(), t.dtype, t.device)

    return all(form(x) == form(y) for x, y in zip(a, b, strict=True))


class _Room:
    """Memory of one stream, and the graphs that were captured with it.

    Attributes:
        stream: weak reference to the stream in it; returns None after the stream has ended.
    """

    def __init__(self, tensors: Tensors) -> None:
        self.tensors, self.graphs = tensors, dict[tuple[object, ...], Graph]()
        self.stream: Callable[[], SlabOwner | None] = lambda: None

    def take(self, stream: SlabOwner) -> None:
        """Moves a stream in: its slab is copied here, and its own memory is freed."""
        for mine, its in zip(self.tensors, _tensors(stream), strict=True):
            if mine is not None and its is not None:
                mine.copy_(its)
        stream.keys, stream.values, stream.raw = self.tensors


class Graph:
    """A function of tensors, captured on its first inputs. Its result is overwritten by the next call."""

    def __init__(self, call: Callable[..., Tensor | None], inputs: list[Tensor]) -> None:
        self._inputs, self._given = [t.clone() for t in inputs], list(inputs)
        aside = torch.cuda.Stream()
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(aside):  # libraries initialise on their first calls, which must not be captured
            for _ in range(2):
                call(*self._inputs)
        torch.cuda.current_stream().wait_stream(aside)
        self._call = call  # keeps what it reads alive
        self._graph = torch.cuda.CUDAGraph()
        # thread_local: another thread may be decoding the previous chunk, and allocate
        with torch.cuda.graph(self._graph, capture_error_mode="thread_local"):
            self._out = call(*self._inputs)

    def __call__(self, inputs: list[Tensor]) -> Tensor | None:
        for mine, before, given in zip(self._inputs, self._given, inputs, strict=True):
            if before is not given:  # a prompt's keys are the same tensors in every pass
                mine.copy_(given)
        self._given = list(inputs)
        self._graph.replay()
        return self._out
