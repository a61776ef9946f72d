"""A Python client of `/v1/sessions`: chunks as arrays, controls as method calls.

live = LiveClient("http://127.0.0.1:7860")
with live.open("a slow flight north over a green meadow, a red ball bounces", seed=7) as stream:
    for chunk in stream:
        print(chunk.told["chunk"], chunk.frames.shape)
        if chunk.told["chunk"] == 5:
            stream.ask("prompt", text="a fast flight north over a yellow desert", kind="recache")
        if chunk.told["chunk"] == 20:
            break
"""

from __future__ import annotations

import io
import itertools
import json
import urllib.error
import urllib.request
from collections import deque
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

Pictures = NDArray[np.uint8]


class LiveError(ValueError):
    """The server refused a request; `code` is the error code for programs."""

    def __init__(self, message: dict[str, Any]) -> None:
        super().__init__(message.get("message", "the server refused"))
        self.code = message.get("code")


@dataclass(frozen=True)
class LiveChunk:
    """One chunk as received.

    Attributes:
        told: the chunk's message, see docs/reference/live.md.
        frames: uint8 `[T, h, w, 3]`; `states`: the decoded hidden state, None if there is none.
    """

    told: dict[str, Any]
    frames: Pictures
    states: Pictures | None


class LiveClient:
    """Connection settings of a server.

    Args:
        url: address that the server prints.
        token: token that the server was started with.
    """

    def __init__(self, url: str = "http://127.0.0.1:7860", token: str | None = None) -> None:
        self.url, self.token = url.rstrip("/"), token

    def info(self) -> dict[str, Any]:
        """The model that the server streams, and the server's limits."""
        return self.get("/v1/info")

    def open(self, prompt: str, hello: dict[str, Any] | None = None, **more: Any) -> LiveStream:
        """Opens a session; `more` are fields of `POST /v1/sessions`, `hello` those of the first message."""
        told = self.request("POST", "/v1/sessions", json.dumps({"v": 1, "prompt": prompt, **more}).encode())
        return LiveStream(self, json.loads(told)["session"], hello or {})

    def get(self, path: str) -> dict[str, Any]:
        told: dict[str, Any] = json.loads(self.request("GET", path))
        return told

    def request(self, method: str, path: str, body: bytes | None = None) -> bytes:
        """The body of the answer; raises LiveError if the server refuses."""
        asked = urllib.request.Request(self.url + path, body, method=method)
        if self.token:
            asked.add_header("Authorization", f"Bearer {self.token}")
        try:
            with urllib.request.urlopen(asked, timeout=60) as answer:
                data: bytes = answer.read()
        except urllib.error.HTTPError as error:
            raise LiveError(_told(error.read())) from None
        return data


class LiveStream:
    """A session and its socket. Iterating yields its chunks; each is acknowledged when the next one is requested."""

    def __init__(self, client: LiveClient, session: dict[str, Any], hello: dict[str, Any]) -> None:
        self.client, self.session, self.hello = client, session, hello
        self.id: str = session["id"]
        self.seen: int | None = None
        self.ready: dict[str, Any] = {}
        self._socket: ClientConnection | None = None
        self._held = ExitStack()
        self._chunks: deque[LiveChunk] = deque()
        self._numbers = itertools.count()

    def connect(self) -> LiveStream:
        """Opens the socket; after a lost connection, reopens it where the stream was."""
        self.drop()
        address = f"ws{self.client.url.removeprefix('http')}{self.session['stream']}"
        self._socket = self._held.enter_context(connect(address, max_size=None, compression=None))
        self._chunks.clear()
        self.say("hello", seen=self.seen, token=self.client.token, **self.hello)
        self.ready = self._message()
        if self.ready["type"] == "error":
            raise LiveError(self.ready)
        return self

    def drop(self) -> None:
        """Closes the socket; the server keeps the session for a while."""
        self._held.close()
        self._socket = None

    def say(self, kind: str, /, **fields: Any) -> None:
        """Sends a message without waiting for an answer."""
        assert self._socket is not None, "connect first"
        self._socket.send(json.dumps({"v": 1, "type": kind, **fields}))

    def ask(self, kind: str, /, **fields: Any) -> dict[str, Any]:
        """Sends a message and returns the answer; chunks that arrive before it are kept."""
        ident = f"c{next(self._numbers)}"
        self.say(kind, id=ident, **fields)
        while True:
            message = self._next()
            if isinstance(message, LiveChunk):
                self._chunks.append(message)
            elif message.get("id") == ident and message["type"] == "error":
                raise LiveError(message)
            elif message.get("id") == ident:
                if message["type"] == "rolled_back":
                    self._chunks.clear()
                return message

    def __iter__(self) -> Iterator[LiveChunk]:
        while True:
            chunk = self.chunk()
            if chunk is None:
                return
            yield chunk
            self.acknowledge(chunk)

    def chunk(self, timeout: float | None = None) -> LiveChunk | None:
        """The next chunk; None at the end. Raises TimeoutError, LiveError."""
        while not self._chunks:
            try:
                message = self._next(timeout)
            except ConnectionClosed:
                return None
            if isinstance(message, LiveChunk):
                self._chunks.append(message)
            elif message["type"] == "error":
                raise LiveError(message)
            elif message["type"] == "closed":
                return None
        chunk = self._chunks.popleft()
        self.seen = chunk.told["seq"]
        return chunk

    def acknowledge(self, chunk: LiveChunk) -> None:
        self.say("ack", seq=chunk.told["seq"])

    def snapshot(self) -> bytes:
        """Snapshot file that `PUT` accepts, for this session or another one of the same weights and stream."""
        return self.client.request("GET", f"/v1/sessions/{self.id}/snapshot")

    def __enter__(self) -> LiveStream:
        return self.connect()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        """Ends the session."""
        self.drop()
        with suppress(LiveError, OSError):  # it may have ended already
            self.client.request("DELETE", f"/v1/sessions/{self.id}")

    # ---- messages

    def _message(self, timeout: float | None = None) -> dict[str, Any]:
        assert self._socket is not None, "connect first"
        return _told(self._socket.recv(timeout))

    def _next(self, timeout: float | None = None) -> dict[str, Any] | LiveChunk:
        message = self._message(timeout)
        if message["type"] != "chunk":
            return message
        assert self._socket is not None
        data = self._socket.recv(timeout)
        assert isinstance(data, bytes)
        frames, states = message["frames"], message["state_frames"]
        shown = _pictures(frames, data)
        rest = data[sum(frames["lengths"]) :]
        return LiveChunk(message, shown, None if states is None else _pictures(states, rest))


def _told(data: str | bytes) -> dict[str, Any]:
    told: dict[str, Any] = json.loads(data)
    return told


def _pictures(told: dict[str, Any], data: bytes) -> Pictures:
    shape, made, at = (told["height"], told["width"], 3), [], 0
    for length in told["lengths"]:
        part = data[at : at + length]
        at += length
        raw = told["encoding"] == "raw"
        made.append(np.frombuffer(part, np.uint8).reshape(shape) if raw else np.asarray(Image.open(io.BytesIO(part))))
    return np.stack(made)
