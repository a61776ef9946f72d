"""The WebSocket of `/v1/sessions`: hello, then chunks one way and controls the other, as in docs/reference/live.md."""

from __future__ import annotations

import asyncio
import json
import time
from contextlib import suppress
from typing import Any

from fastapi import WebSocket, WebSocketDisconnect

from adastate.live.guards import Guards
from adastate.live.messages import (
    Ack,
    Act,
    Bucket,
    ForkOff,
    Hello,
    Plain,
    Record,
    Refusal,
    Rollback,
    Said,
    SayPrompt,
    Speed,
    read_message,
    server_message,
)
from adastate.live.session_hub import Hub
from adastate.live.stream_channel import Attachment, Channel, Entry

HELLO_S = 10
"""Seconds within which a client must send hello."""

UNAUTHORIZED, NO_SESSION, REPLACED = 4401, 4404, 4409
BUSY, SHUTDOWN = 1013, 1001
GONE_SOCKET = (WebSocketDisconnect, RuntimeError)
"""Exceptions of a closed socket: RuntimeError if this side closed it."""


class SessionDoor:
    """Serves sockets, each for one session."""

    def __init__(self, hub: Hub, guards: Guards) -> None:
        self.hub, self.guards = hub, guards

    async def __call__(self, socket: WebSocket, ident: str) -> None:
        """Serves a socket from its first message to its last."""
        await socket.accept()
        with suppress(*GONE_SOCKET):
            try:
                hello = await self._hello(socket)
                channel = self.hub.get(ident)
                resumed = await self.hub.shelf.take_down(channel)
            except Refusal as error:
                await _say(socket, error.message)
                codes = {"unauthorized": UNAUTHORIZED, "no_session": NO_SESSION, "limit": BUSY}
                await socket.close(codes.get(error.code, 1008))
                return
            await self._serve(socket, channel, hello, resumed)

    async def _hello(self, socket: WebSocket) -> Hello:
        """The first message; invalid messages before it are answered, and the client may try again."""
        known = self.guards.told(socket.headers.get("authorization"))
        bucket = Bucket(self.hub.limits.messages_per_s)
        deadline = time.monotonic() + HELLO_S
        while True:
            try:
                text = await asyncio.wait_for(next_text(socket), deadline - time.monotonic())
                await bucket.wait()
                said = read_message(text, self.hub.limits)
            except TimeoutError:
                raise Refusal("unauthorized", f"no hello arrived within {HELLO_S} seconds") from None
            except Refusal as error:
                if error.code == "unauthorized":
                    raise
                await _say(socket, error.message)
                continue
            if not known and not self.guards.right(said.token if isinstance(said, Hello) else None):
                raise Refusal("unauthorized", "this server was started with a token: send it in hello", 401)
            if isinstance(said, Hello):
                return said
            await _say(socket, Refusal("bad_message", "the first message must be hello", ident=said.id).message)

    async def _serve(self, socket: WebSocket, channel: Channel, hello: Hello, resumed: bool) -> None:
        resumed = resumed or bool(channel.seq)
        channel.encoding, channel.quality, channel.states = hello.encoding, hello.quality, hello.states
        if channel.session is not None:
            channel.session.measure_attention = hello.attention
        attached = channel.attach(hello.seen)
        await _say(socket, server_message("ready", session=channel.told, next=attached.sent + 1, resumed=resumed))
        self.hub.pacing.wake.set()
        tasks = [
            asyncio.create_task(self._out(socket, channel, attached)),
            asyncio.create_task(self._in(socket, channel)),
        ]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            channel.detach(attached)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        if attached.replaced:
            await socket.close(REPLACED)

    async def _out(self, socket: WebSocket, channel: Channel, attached: Attachment) -> None:
        """Sends all messages, so that nothing comes between the two messages of a chunk."""
        async for item in channel.leaving(attached):
            if isinstance(item, Entry):
                await _say(socket, item.message | {"sent": round(time.time(), 4)})
                await socket.send_bytes(item.data)
                continue
            await _say(socket, item)
            if item["type"] == "closed":
                await socket.close(SHUTDOWN if item["reason"] == "ended" else 1000)
                return

    async def _in(self, socket: WebSocket, channel: Channel) -> None:
        most = self.hub.limits.messages_per_s
        bucket, complained = Bucket(most), -1.0
        while True:
            try:
                text = await next_text(socket)
                if await bucket.wait() and time.monotonic() - complained > 1:
                    complained = time.monotonic()
                    slow = Refusal("rate", f"this server reads at most {most} messages a second", 429)
                    channel.notices.append(slow.message)
                await self._obey(channel, read_message(text, self.hub.limits))
            except Refusal as error:
                channel.notices.append(error.message)
                channel.bell.set()
            while len(channel.notices) > 64:  # a client that sends but does not read has to wait
                await asyncio.sleep(0.05)

    async def _obey(self, channel: Channel, said: Said) -> None:
        """Executes one message; raises Refusal if that is impossible."""
        if not isinstance(said, Plain) or said.type != "ping":
            channel.active = time.monotonic()
        try:
            await self._do(channel, said)
        except Refusal as error:
            error.ident = error.ident or said.id
            raise

    async def _do(self, channel: Channel, said: Said) -> None:
        hub, ident = self.hub, said.id
        match said:
            case Ack():
                channel.acknowledge(said.seq)
                hub.pacing.wake.set()
            case SayPrompt():
                number = await hub.control(channel, ident, lambda s: s.prompt(said.text, said.kind, said.anchor))
                channel.post("queued", id=ident, number=number)
            case Act():
                number = await hub.control(channel, ident, lambda s: s.act(said.keys))
                channel.post("queued", id=ident, number=number)
            case Speed():
                channel.group.speed = said.value
                self._changed(channel, ident)
            case Rollback():
                to = await hub.rollback(channel, said)
                for member in channel.group.members:
                    own = ident if member is channel else None
                    member.post("rolled_back", id=own, to=to, session=member.told)
            case ForkOff():
                twin = await hub.fork(channel, said.to)
                channel.post("forked", id=ident, session=twin.told)
            case Record():
                channel.post("recording", id=ident, **await hub.record(channel, said.on, said.states))
            case Plain():
                await self._plain(channel, said)
            case Hello():
                raise Refusal("bad_message", "hello may be sent only once, at the beginning")

    async def _plain(self, channel: Channel, said: Plain) -> None:
        match said.type:
            case "pause" | "resume":
                channel.group.paused, channel.group.due = said.type == "pause", None
                self._changed(channel, said.id)
            case "script":
                channel.post("script", id=said.id, script=self.hub.script(channel))
            case "ping":
                channel.post("pong", id=said.id, time=round(time.time(), 4))
            case "close":
                await self.hub.close(channel)

    def _changed(self, channel: Channel, ident: str | None) -> None:
        for member in channel.group.members:
            member.post("state", id=ident if member is channel else None, session=member.told)
        self.hub.pacing.wake.set()


async def next_text(socket: WebSocket) -> str:
    """The next text message; raises Refusal if it is binary, WebSocketDisconnect at the end."""
    message = await socket.receive()
    if message["type"] == "websocket.disconnect":
        raise WebSocketDisconnect(message.get("code", 1005))
    text = message.get("text")
    if text is None:
        raise Refusal("bad_message", "messages must be JSON in text frames, but this one was binary")
    return str(text)


async def _say(socket: WebSocket, message: dict[str, Any]) -> None:
    await socket.send_text(json.dumps(message, ensure_ascii=False, separators=(",", ":")))
