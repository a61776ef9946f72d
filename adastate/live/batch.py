"""Generates one chunk of several sessions; passes of equal shape run as one batch.

A network pass takes a batch. With relative time, the passes of all sessions with a full window fit into one batch: they
have the same number of keys at the same indices, whatever the age of each session. So sessions can join and leave
between chunks at no cost to the others. With absolute time this holds only for sessions of the same age.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from time import perf_counter

import torch
from torch import Tensor

from adastate.live.session import Session
from adastate.live.step import Step
from adastate.stream.passes import PassRequest, Requests
from adastate.stream.stacked_memory import StackedMemory, stacking_key
from adastate.training.prompted_network import PromptedNetwork, StackedKeys, StackedNetwork
from adastate.types import Chunk, host_level, one_level


class SessionBatch:
    """Steps sessions together, and reuses buffers while the set of sessions stays the same.

    Attributes:
        rows: number of rows of each pass of the latest step.
    """

    def __init__(self) -> None:
        self._keys = StackedKeys()
        self.rows: list[int] = []

    def step(self, sessions: Sequence[Session]) -> list[Step | Exception]:
        """Generates one chunk per session, in order; a failed session returns its exception, the others continue."""
        if len({id(session) for session in sessions}) < len(sessions):
            raise ValueError("a session is given twice, but its chunks can only be generated one after the other")
        began = perf_counter()
        self.rows = []
        streams = [_Stream(session, session.requests()) for session in sessions]
        memories: dict[tuple[int, ...], StackedMemory] = {}
        for stream in streams:
            stream.go_on(None)
        while waiting := [stream for stream in streams if stream.request is not None]:
            for alike in _groups(waiting):
                self._run(alike, memories)
        return [stream.step(began) for stream in streams]

    def _run(self, alike: list[_Stream], memories: dict[tuple[int, ...], StackedMemory]) -> None:
        try:
            velocities = self._together(alike, memories) if len(alike) > 1 else [_alone(alike[0])]
        except Exception as error:  # one session may have caused it: run them separately
            if len(alike) == 1:
                alike[0].fail(error)
                return
            for stream in alike:
                self._run([stream], memories)
            return
        self.rows.append(len(alike))
        for stream, velocity in zip(alike, velocities, strict=True):
            stream.go_on(velocity)

    @torch.no_grad()
    def _together(self, alike: Sequence[_Stream], memories: dict[tuple[int, ...], StackedMemory]) -> Sequence[Tensor]:
        requests = [stream.request for stream in alike if stream.request is not None]
        key = tuple(id(request.memory) for request in requests)
        if key not in memories:
            memories[key] = StackedMemory([request.memory for request in requests])
        network = StackedNetwork([r.network for r in requests if isinstance(r.network, PromptedNetwork)], self._keys)
        x, t = torch.cat([r.x for r in requests]), requests[0].t
        level = host_level(t)
        t = t.expand(len(x), -1) if level is None else one_level(*x.shape[:2], level, x.device)
        velocity = network(x, t, memories[key])
        return velocity.split(1) if len(velocity) == len(x) else [velocity] * len(x)  # a clean pass returns no velocity


@dataclass
class _Stream:
    """A session while its next chunk is generated."""

    session: Session
    requests: Requests[Chunk]
    request: PassRequest | None = None
    chunk: Chunk | None = None
    error: Exception | None = None
    done: float = field(default=0.0)

    def go_on(self, velocity: Tensor | None) -> None:
        self.request = None
        try:
            with torch.no_grad():
                self.request = next(self.requests) if velocity is None else self.requests.send(velocity)
        except StopIteration as end:
            self.chunk, self.done = end.value, perf_counter()
        except Exception as error:
            self.fail(error)

    def fail(self, error: Exception) -> None:
        self.request, self.error = None, error
        self.requests.close()

    def step(self, began: float) -> Step | Exception:
        if self.chunk is not None:
            try:
                return self.session.finish(self.chunk, self.done - began)
            except Exception as error:
                self.error = error
        assert self.error is not None
        self.session.undo()
        return self.error


def _groups(streams: Sequence[_Stream]) -> list[list[_Stream]]:
    found: dict[tuple[object, ...], list[_Stream]] = {}
    for stream in streams:
        request = stream.request
        assert request is not None
        network, alike = request.network, stacking_key(request.memory)
        if alike is None or not isinstance(network, PromptedNetwork) or len(request.x) != 1:
            found[(id(stream),)] = [stream]
            continue
        level = host_level(request.t)
        levels = tuple(request.t.flatten().tolist()) if level is None else level
        found.setdefault((network.passes_id, request.x.shape, levels, alike), []).append(stream)
    return list(found.values())


def _alone(stream: _Stream) -> Tensor:
    request = stream.request
    assert request is not None
    with torch.no_grad():
        return request.network(request.x, request.t, request.memory)
