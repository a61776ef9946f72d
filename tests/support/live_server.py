"""A live server in this process, with sessions that cost nothing: what they show tells which chunk it is."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from time import perf_counter, sleep
from typing import Any

import torch

from adastate.live.guards import Guards
from adastate.live.messages import Limits
from adastate.live.server import bound
from adastate.live.session_hub import Hub
from adastate.live.step import Receipt, Step


class EasyModel:
    """What a server asks of a model."""

    fps, width, height, actions = 8, 4, 2, 4
    system, systems, world = "adastate", ["adastate", "longlive"], None
    vocabulary: tuple[str, ...] = ()
    examples = ("one", "two")


class EasySession:
    """Two frames a chunk, whose first value is the chunk's number; a prompt of "fail" makes the next chunk fail."""

    fps, width, height, measure_attention = 8, 4, 2, False

    def __init__(
        self, model: Any, prompt: str, seed: int, system: str | None, image: Any, history: int, script: Any = ()
    ) -> None:
        if system not in (None, *EasyModel.systems):
            raise ValueError(f"no system {system!r}")
        self.seed, self.system, self.text, self.keys, self.chunk = seed, system, prompt, "", 0
        self.script = list(script)
        self.asked: list[tuple[int, str, float, str]] = []
        self.kept, self.number, self.closed, self.bytes = history, 0, False, 1000

    @property
    def history(self) -> range:
        return range(max(0, self.chunk - self.kept), self.chunk)

    def prompt(self, text: str, kind: str | None = None, anchor: str | None = None) -> int:
        if not text.strip():
            raise ValueError("a prompt is a text")
        return self._ask("prompt", text)

    def act(self, keys: str = "") -> int:
        if set(keys) - set("wasd"):
            raise ValueError("no such key")
        return self._ask("act", keys)

    def _ask(self, kind: str, told: str) -> int:
        self.number += 1
        self.asked.append((self.number, kind, perf_counter(), told))
        return self.number

    def requests(self) -> Generator[Any, Any, int]:
        asked, self.asked = self.asked, []
        self.due = asked
        for _, kind, _, told in asked:
            if told == "fail":
                raise ValueError("it was told to fail")
            self.script.append({"chunk": self.chunk, "kind": kind, "text": told})
            self.text, self.keys = (told, self.keys) if kind == "prompt" else (self.text, told)
        return self.chunk
        yield

    def finish(self, chunk: int, denoise_s: float) -> Step:
        video = torch.full((2, self.height, self.width, 3), chunk % 256, dtype=torch.uint8)
        video[..., 1] = len(self.text)
        receipts = tuple(Receipt(n, kind, chunk, perf_counter() - at) for n, kind, at, _ in self.due)
        self.chunk += 1
        return Step(chunk, video, video[:1], {"own": 1.0}, self.text, self.keys, denoise_s, 0.0, receipts)

    def undo(self) -> None: ...

    def rollback(self, chunks: int | None = None, to: int | None = None) -> None:
        self.chunk = self.chunk - chunks if chunks is not None else to or 0

    def fork(self) -> EasySession:
        twin = EasySession(None, self.text, self.seed, self.system, None, self.kept)
        twin.chunk = self.chunk
        return twin

    def close(self) -> None:
        self.closed = True


@contextmanager
def serving(
    model: Any = None, limits: Limits | None = None, paced: bool = False, token: str | None = None, **more: Any
) -> Iterator[tuple[str, Hub]]:
    """Its address, and its hub; of easy sessions where no model is given."""
    if model is None:
        model, more = EasyModel(), {"opened": EasySession, **more}
    hub = Hub(model, "test", limits, paced, **more)
    server, kept, address = bound(hub, Guards("127.0.0.1", token), "127.0.0.1", 0)
    thread = threading.Thread(target=lambda: asyncio.run(server.serve(sockets=[kept])), daemon=True)
    thread.start()
    while not server.started and thread.is_alive():
        sleep(0.005)
    try:
        yield address, hub
    finally:
        server.should_exit = True
        thread.join(10)
        kept.close()
    assert not thread.is_alive(), "it ends when it is told to"
