"""A session: one stream that is generated chunk by chunk, can be steered between chunks, saved, forked and rolled back.

It is a function of the weights, the system, the seed, the given frames, and its controls with the chunks in which they
took effect. So a stream that continues from a snapshot is bit-equal to one that was never interrupted, and a script of
controls reproduces the stream.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from threading import Lock
from time import perf_counter
from typing import Any

import torch
from torch import Tensor

from adastate.diffusion.noise import PlacedNoise
from adastate.live.controls import check_control, check_prompt, check_scripted, columns_held, policy_of
from adastate.live.model import LiveModel
from adastate.live.snapshot import Snapshot
from adastate.live.step import Receipt, Step
from adastate.live.stream_state import StreamState
from adastate.media.video import to_uint8
from adastate.models.actions import Steering, given
from adastate.runtime.python_arguments import whole_number
from adastate.stream import StateCache
from adastate.stream.action_schedule import held_keys
from adastate.stream.attention_probe import PassShare
from adastate.stream.passes import PassRequest, Requests, run_passes
from adastate.stream.switches import Fate, Kind
from adastate.types import Chunk

HISTORY = 32
"""Number of chunks that a session can roll back."""


@dataclass
class Control:
    number: int
    asked: float
    told: dict[str, Any]


@dataclass
class _Moment:
    """The state that `undo` and `rollback` return to."""

    state: StreamState
    script: tuple[dict[str, Any], ...]
    scripted: tuple[dict[str, Any], ...]


@dataclass
class _Pending:
    """Data of a chunk that is being generated."""

    before: _Moment
    share: PassShare | None = None
    controls: list[Control] = field(default_factory=list)


class Session:
    """One stream of a model. Not thread-safe, except for `prompt` and `act`.

    Args:
        prompt: the first prompt.
        seed: seed of the noise, which is a function of the seed and the position in the stream: sessions with one seed
            have the same noise, whichever system they run.
        system: name in conf/systems; None for the stream that the weights were trained for.
        given: clean latents `[1, F, C, H, W]` that precede the stream.
        history: number of chunks that it can roll back.
        script: controls of an earlier session, see `Session.script`.
    """

    def __init__(
        self,
        model: LiveModel,
        prompt: str,
        seed: int = 0,
        system: str | None = None,
        given: Tensor | None = None,
        history: int = HISTORY,
        script: Sequence[Mapping[str, Any]] = (),
    ) -> None:
        if history < 0:
            raise ValueError(f"history is {history}; it is the number of chunks that a session can roll back")
        self.model, self.seed, self.system, self.spec = model, seed, system, model.spec(system)
        self.measure_attention = False
        self._image = given is not None
        steering = None
        if model.actions:
            steering = Steering(torch.zeros(1, 0, model.actions + 1), 0 if given is None else given.shape[1])
        noise = PlacedNoise(seed, [0], device=model.device)
        self._state = StreamState(noise, StateCache(self.spec), model.network(check_prompt(prompt), steering), prompt)
        self._state.given = None if given is None else given.to(model.device)
        self._history: deque[_Moment] = deque(maxlen=history)
        self._lock, self._asked, self._number = Lock(), list[Control](), 0
        self._script: tuple[dict[str, Any], ...] = ()
        self._scripted = tuple(dict(entry) for entry in script)
        for entry in self._scripted:
            check_scripted(entry, self.spec, model.actions)
        self._pending: _Pending | None = None
        self._closed = False

    # ---- properties

    @property
    def fps(self) -> int:
        return self.model.fps

    @property
    def width(self) -> int:
        return self.model.width

    @property
    def height(self) -> int:
        return self.model.height

    @property
    def chunk(self) -> int:
        """Number of the next chunk."""
        return self._state.cache.generated

    @property
    def history(self) -> range:
        """The chunks to which `rollback` can return; the next chunk then has that number."""
        return range(self.chunk - len(self._history), self.chunk)

    @property
    def script(self) -> list[dict[str, Any]]:
        """The controls so far, each with the chunk in which it took effect."""
        return [dict(entry) for entry in self._script]

    @property
    def bytes(self) -> int:
        """Bytes of all tensors that only this session holds, including its history."""
        states = [self._state, *(moment.state for moment in self._history)]
        held = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for s in states for t in s.tensors}
        return sum(held.values())

    # ---- controls, which may be called from any thread

    def prompt(self, text: str, kind: Kind | None = None, anchor: Fate | None = None) -> int:
        """Sets a new prompt from the next chunk on; returns the number of the control.

        Args:
            kind: what happens to the past, see SwitchPolicy; None for the system's own policy.
            anchor: whether the anchor, or state, is kept or reset.

        Raises:
            ValueError: an empty text, or a kind that this stream does not support.
        """
        return self._ask({"kind": "prompt", "text": text, "switch": kind, "anchor": anchor})

    def act(self, keys: str = "") -> int:
        """Sets the keys that are held from the next chunk on, "ai", or words, "left+climb"; empty: straight on.

        Raises:
            ValueError: the network accepts no actions, or not one of these.
        """
        return self._ask({"kind": "act", "keys": keys})

    def _ask(self, told: dict[str, Any]) -> int:
        self._open()
        check_control(told, self.spec, self.model.actions)
        with self._lock:
            self._number += 1
            self._asked.append(Control(self._number, perf_counter(), told))
            return self._number

    # ---- chunks

    def step(self) -> Step:
        """Generates the next chunk. If this fails, the session is unchanged."""
        began = perf_counter()
        try:
            chunk = run_passes(self.requests())
            return self.finish(chunk, perf_counter() - began)
        except BaseException:
            self.undo()
            raise

    def requests(self) -> Requests[Chunk]:
        """The next chunk, as passes for the caller to run; `finish` or `undo` must follow. `step` does all of it."""
        self._open()
        if self._pending is not None:
            raise RuntimeError("a chunk of this session is being generated")
        self._pending = _Pending(_Moment(self._state.fork(), self._script, self._scripted))
        return self._requests(self._pending)

    def _requests(self, pending: _Pending) -> Requests[Chunk]:
        state, number = self._state, self.chunk
        due = [entry for entry in self._scripted if entry["chunk"] == number]
        self._scripted = tuple(entry for entry in self._scripted if entry["chunk"] > number)
        pending.controls, measured = self._take()
        due += [{**control.told, "chunk": number} for control in pending.controls]
        last = {entry["kind"]: entry for entry in due}  # of two prompts for one chunk the later wins
        if told := last.get("prompt"):
            network = self.model.network(told["text"], state.steering)
            yield from state.turn(network, told["text"], policy_of(told, self.spec))
        if told := last.get("act"):
            assert state.steering is not None
            state.steering.steer(given(columns_held(told, self.model.actions)))
            state.keys = held_keys(told["keys"])
        self._script += tuple(last.values())

        def watch(request: PassRequest) -> None:
            if measured:
                pending.share = PassShare(request.memory.places)
                request.memory.probe = pending.share

        return (yield from state.advance(self.model.shape, self.model.reencode, watch))

    def _take(self) -> tuple[list[Control], bool]:
        """The controls that take effect in the next chunk, and whether its attention is measured."""
        with self._lock:
            taken, self._asked = self._asked, []
        return taken, self.measure_attention

    def finish(self, chunk: Chunk, denoise_s: float) -> Step:
        """Decodes a chunk that `requests` has generated."""
        assert self._pending is not None
        began, state, pending = perf_counter(), self._state, self._pending
        decoder = self.model.codec.stream()
        decoder.memory = dict(state.decoded)
        parts = [chunk.content]
        if chunk.index == 0 and pending.before.state.given is not None:
            parts = [pending.before.state.given, chunk.content]
        video = torch.cat([decoder.decode(part) for part in parts], 1)
        hidden = None if chunk.state is None else self.model.codec.decode(chunk.state)
        state.decoded = dict(decoder.memory)
        shown, carried = _pictures(video), None if hidden is None else _pictures(hidden)
        self._pending = None
        self._history.append(pending.before)
        now = perf_counter()
        return Step(
            chunk=chunk.index,
            video=shown,
            state=carried,
            attention={} if pending.share is None else pending.share.shares,
            prompt=state.prompt,
            keys=state.keys,
            denoise_s=denoise_s,
            decode_s=now - began,
            receipts=tuple(Receipt(c.number, c.told["kind"], chunk.index, now - c.asked) for c in pending.controls),
        )

    def undo(self) -> None:
        """Reverts a chunk that failed; its controls wait for the next one."""
        pending, self._pending = self._pending, None
        if pending is not None:
            self._go(pending.before)
            with self._lock:
                self._asked = pending.controls + self._asked

    # ---- rollback, snapshots, forks

    def rollback(self, chunks: int | None = None, to: int | None = None) -> None:
        """Rolls back by `chunks`, or to the moment before chunk `to`.

        Raises:
            ValueError: the history does not reach that far.
        """
        self._idle()
        if (chunks is None) == (to is None):
            raise ValueError("rollback takes either `chunks` or `to`: give exactly one of them")
        if to is None:
            whole_number("chunks", chunks, 0)
        target = whole_number("to", to) if to is not None else self.chunk - (chunks or 0)
        if target == self.chunk:
            return
        if target not in self.history:
            there = self.history
            reach = f"to chunk {there[0]} at most" if there else "nowhere, as it has no history"
            raise ValueError(f"this session can roll back {reach}, not to chunk {target}")
        while self.chunk > target:
            self._go(self._history.pop())

    def snapshot(self) -> Snapshot:
        """A copy of the session as it is now, which later steps do not change."""
        self._idle()
        return Snapshot(
            self._state.fork(), self._script, self._scripted, self.seed, self.system, self.model.identity(self.spec)
        )

    def restore(self, snapshot: Snapshot) -> None:
        """Continues from a snapshot of this or another session of these weights; the history starts there.

        Raises:
            ValueError: the snapshot was made with other weights or another stream.
        """
        self._idle()
        state = snapshot.state_for(self.model, self.spec)
        self.seed, self.system = snapshot.seed, snapshot.system
        self._history.clear()
        self._go(_Moment(state, snapshot.script, snapshot.scripted))

    def fork(self) -> Session:
        """A second session with the same state and history, which continues independently."""
        self._idle()
        twin = object.__new__(type(self))
        twin.__dict__.update(self.__dict__)
        twin._state, twin._lock, twin._asked = self._state.fork(), Lock(), []
        twin._history = deque(self._history, self._history.maxlen)
        return twin

    def close(self) -> None:
        """Releases all memory."""
        self._closed = True
        self._history.clear()
        self._state = self._state.fork()
        self._state.cache.reset()
        self._state.flight, self._state.unwritten, self._state.decoded = [], None, {}

    def _go(self, moment: _Moment) -> None:
        self._state = moment.state.fork()  # a forked session may share the moment
        self._script, self._scripted = moment.script, moment.scripted

    def _idle(self) -> None:
        self._open()
        if self._pending is not None:
            raise RuntimeError("a chunk of this session is being generated")

    def _open(self) -> None:
        if self._closed:
            raise ValueError("this session is closed")


def _pictures(video: Tensor) -> Tensor:
    """`[1, T, 3, h, w]` in [-1, 1] to uint8 `[T, h, w, 3]` on the CPU."""
    return to_uint8(video)[0].permute(0, 2, 3, 1).contiguous()
