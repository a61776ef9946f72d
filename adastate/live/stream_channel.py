"""Connects a session and its client: unacknowledged chunks, pending messages, and a clock."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from adastate.live.frame_bytes import encoded_pictures
from adastate.live.messages import Limits, server_message
from adastate.live.recording import Recording
from adastate.live.session import Session
from adastate.live.step import Step

NOTICES = 256
"""Maximum number of messages that wait for a socket; the oldest are dropped first."""


@dataclass
class Entry:
    """A chunk that waits to be sent.

    Attributes:
        due: when it may be sent, in seconds of the event loop's clock.
    """

    seq: int
    message: dict[str, Any]
    data: bytes
    due: float


@dataclass(eq=False)
class Attachment:
    """One socket of a channel; `sent` is the newest chunk that was sent to it."""

    sent: int
    replaced: bool = False


class Channel:
    """A session on the server.

    Attributes:
        id: a secret, by which the client finds its session again.
        session: None while only its snapshot is kept, in `parked`.
        facts: state of the session after the latest job: chunk, bytes, history.
        idents: the client's ids of its controls, by their numbers.
        held: generated chunks that are not acknowledged yet.
        replays: whether its script reproduces the stream, which requires that it began with the prompt alone.
        history: number of chunks that the session can roll back.
        active, detached: when its client last took or requested something, and when its socket was closed.
    """

    def __init__(self, session: Session, prompt: str, limits: Limits, history: int) -> None:
        self.id, self.limits, self.history = secrets.token_urlsafe(16), limits, history
        self.session: Session | None = session
        self.seed, self.system, self.opened_with, self.replays = session.seed, session.system, prompt, True
        self.fps, self.width, self.height = session.fps, session.width, session.height
        self.prompt, self.keys, self.seconds, self.seq = prompt, "", 0.0, 0
        self.encoding, self.quality, self.states = "auto", 90, True
        self.facts: dict[str, Any] = {}
        self.idents: dict[int, str | None] = {}
        self.held: deque[Entry] = deque()
        self.notices: deque[dict[str, Any]] = deque(maxlen=NOTICES)
        self.bell = asyncio.Event()
        self.socket: Attachment | None = None
        self.active = self.detached = time.monotonic()
        self.parked: Path | None = None
        self.recording: Recording | None = None
        self.recorded: Recording | None = None
        self.pack: Callable[[Step, dict[str, Any]], tuple[dict[str, Any], bytes]] = self.pictures
        self.group = Lockstep([self])
        self.note()

    # ---- description

    def note(self) -> None:
        """Updates `facts`; in the worker's thread, or while nothing is generated."""
        if self.session is not None:
            first, chunk = self.session.history.start, self.session.chunk
            self.facts = {"chunk": chunk, "bytes": self.session.bytes, "history": [first, chunk]}

    @property
    def told(self) -> dict[str, Any]:
        """SESSION of docs/reference/live.md."""
        twin = self.twin
        return {
            "id": self.id,
            "system": self.system,
            "prompt": self.prompt,
            "seed": self.seed,
            "fps": self.fps,
            "width": self.width,
            "height": self.height,
            **self.facts,
            "paused": self.group.paused,
            "speed": self.group.speed,
            "recording": self.recording is not None,
            "keys": self.keys,
            "pair": None if twin is None else twin.id,
            "stream": f"/v1/sessions/{self.id}/stream",
        }

    @property
    def twin(self) -> Channel | None:
        return next((member for member in self.group.members if member is not self), None)

    @property
    def ready(self) -> bool:
        return self.session is not None and self.socket is not None and len(self.held) < self.limits.unacknowledged

    # ---- chunks

    def pictures(self, step: Step, facts: dict[str, Any]) -> tuple[dict[str, Any], bytes]:
        """A chunk's message without its number, and its bytes; not in the event loop's thread."""
        began = time.perf_counter()
        frames, parts = encoded_pictures(step.video, self.encoding, self.quality)
        hidden, more = encoded_pictures(step.state if self.states else None, self.encoding, self.quality)
        work = step.denoise_s + step.decode_s
        timings = {"denoise_s": step.denoise_s, "decode_s": step.decode_s, "encode_s": time.perf_counter() - began}
        message = {
            "chunk": step.chunk,
            "frames": frames,
            "state_frames": hidden,
            "attention": step.attention,
            "prompt": step.prompt,
            "keys": step.keys,
            "fps": self.fps,
            "made_fps": round(len(step.video) / max(work, 1e-6), 1),
            "bytes": facts["bytes"],
            "history": facts["history"],
            "timings": {name: round(value, 4) for name, value in timings.items()},
        }
        return message, b"".join(parts + more)

    def hold(self, step: Step, message: dict[str, Any], data: bytes, due: float) -> None:
        """Queues a packed chunk, to be sent at `due`."""
        receipts = [
            {
                "number": receipt.number,
                "id": self.idents.pop(receipt.number, None),
                "kind": receipt.kind,
                "chunk": receipt.chunk,
                "seconds": round(receipt.seconds, 4),
            }
            for receipt in step.receipts
        ]
        message = server_message("chunk", seq=self.seq, **message, at=round(self.seconds, 4), receipts=receipts)
        self.held.append(Entry(self.seq, message, data, due))
        self.seq += 1
        self.seconds += len(step.video) / self.fps
        self.bell.set()

    def acknowledge(self, seq: int) -> None:
        """Records that all chunks up to this one were received."""
        while self.held and self.held[0].seq <= seq:
            self.held.popleft()

    def post(self, kind: str, /, **fields: Any) -> None:
        """Queues a message other than a chunk."""
        self.notices.append(server_message(kind, **fields))
        self.bell.set()

    # ---- sockets

    def attach(self, seen: int | None) -> Attachment:
        """Attaches a socket whose client has received chunks up to `seen`; replaces the previous socket."""
        if self.socket is not None:
            self.socket.replaced = True
        if seen is not None:
            self.acknowledge(seen)
        self.notices.clear()
        self.active, self.group.due = time.monotonic(), None
        self.socket = Attachment(self.held[0].seq - 1 if self.held else self.seq - 1)
        self.bell.set()
        return self.socket

    def detach(self, socket: Attachment) -> None:
        if self.socket is socket:
            self.socket, self.detached = None, time.monotonic()

    async def leaving(self, socket: Attachment) -> AsyncIterator[Entry | dict[str, Any]]:
        """Yields what to send to a socket, each when it is due, until another socket replaces it."""
        loop = asyncio.get_running_loop()
        while not socket.replaced:
            self.bell.clear()
            if self.notices:
                yield self.notices.popleft()
                continue
            entry = next((e for e in self.held if e.seq > socket.sent), None)
            wait = None if entry is None else entry.due - loop.time()
            if entry is not None and wait is not None and wait <= 0:
                socket.sent = entry.seq
                yield entry
                continue
            with suppress(TimeoutError):
                await asyncio.wait_for(self.bell.wait(), wait)
        self.bell.set()  # for the socket that replaced it


@dataclass(eq=False)
class Lockstep:
    """One session, or two under two systems that run in step.

    Attributes:
        due: when the next chunk's first frame is to be sent; None: as soon as it is generated.
        in_flight: a chunk is being generated or packed; `waiting`: jobs that wait for the gap between two chunks.
        work: recent duration of a chunk in seconds.
    """

    members: list[Channel]
    paused: bool = False
    speed: float = 1.0
    due: float | None = None
    in_flight: bool = False
    waiting: int = 0
    work: float = 0.0
    done: asyncio.Event = field(default_factory=asyncio.Event)
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)

    @property
    def ready(self) -> bool:
        idle = not (self.paused or self.in_flight or self.waiting)
        return idle and bool(self.members) and all(member.ready for member in self.members)

    @asynccontextmanager
    async def between_chunks(self) -> AsyncIterator[None]:
        """Holds off the generation of chunks for the duration of the context."""
        self.waiting += 1
        try:
            async with self.lock:
                while self.in_flight:
                    self.done.clear()
                    await self.done.wait()
                yield
        finally:
            self.waiting -= 1
