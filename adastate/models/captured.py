"""Equals the passes that it captures, for any number of streams: tests/models/test_captured.py.

A CUDA graph reads and writes the addresses that it was captured on: those of the stream's slab, too. So a graph holds
on to its tensors, and a stream that comes after another has ended is moved to where that one was (`_Room`): one
copy, and the graphs serve it as well. Streams side by side have a room each.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable

import torch
from torch import Tensor

from adastate.models.engine_pass import EnginePass, Modulations, Run, written
from adastate.types import SlabOwner, SlabTensors

SPARE = 1
"""Rooms that are kept for streams to come; each holds the memory of one."""


class Captured:
    """Passes by CUDA graphs: one a kind and a room, with the small inputs copied to where the graph reads them."""

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

            # of tensors and numbers alone: a graph that held a pass would hold its stream, which then would never end
            def call(
                patches: Tensor, m: Tensor, h: Tensor, table: Tensor, index: Tensor, *text: Tensor
            ) -> Tensor | None:
                pairs = list(zip(text[::2], text[1::2], strict=True))
                fixed = (keys, values, raw if keeps else None, index)
                return self._run(patches, m, h, table, *fixed, pairs, batch, frame_tokens, clean)

            room.graphs[kind] = Graph(call, moving)
        return room.graphs[kind](moving)

    def _room(self, stream: SlabOwner) -> _Room:
        """Where `stream` is, or is from now on: in a room that has become free, if it fits, or in a new one."""
        for room in self._rooms:
            if room.stream() is stream and _same(room.tensors, _tensors(stream)):
                return room
        self._rooms = [room for room in self._rooms if room.stream() is not stream]  # it has grown out of that one
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
    """Whether they could take each other's place."""

    def form(t: Tensor | None) -> object:
        return None if t is None else (t.shape, t.stride(), t.dtype, t.device)

    return all(form(x) == form(y) for x, y in zip(a, b, strict=True))


class _Room:
    """Memory of one stream, and the graphs that were captured on it.

    Attributes:
        stream: that is in it; of one that has ended it gives None.
    """

    def __init__(self, tensors: Tensors) -> None:
        self.tensors, self.graphs = tensors, dict[tuple[object, ...], Graph]()
        self.stream: Callable[[], SlabOwner | None] = lambda: None

    def take(self, stream: SlabOwner) -> None:
        """Moves a stream in: what it remembers is copied, and its own memory is free."""
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
        with torch.cuda.stream(aside):  # libraries set themselves up on their first calls, which no graph may hold
            for _ in range(2):
                call(*self._inputs)
        torch.cuda.current_stream().wait_stream(aside)
        self._call = call  # what it reads must not be freed
        self._graph = torch.cuda.CUDAGraph()
        # thread_local: another thread may be decoding the chunk before, and allocate
        with torch.cuda.graph(self._graph, capture_error_mode="thread_local"):
            self._out = call(*self._inputs)

    def __call__(self, inputs: list[Tensor]) -> Tensor | None:
        for mine, before, given in zip(self._inputs, self._given, inputs, strict=True):
            if before is not given:  # a prompt's keys are the same tensors from pass to pass
                mine.copy_(given)
        self._given = list(inputs)
        self._graph.replay()
        return self._out
