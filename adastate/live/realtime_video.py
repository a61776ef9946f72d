"""`WS /v1/realtime/video`: the messages of vLLM-Omni's streaming video output, so that its clients work here.

One socket is one stream, controlled with JSON; each `video.chunk_metadata` is directly followed by one binary message
of a continuous fragmented mp4. Prompts and cameras take effect at chunk boundaries.
"""

from __future__ import annotations

import asyncio
import json
import math
import secrets
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from fastapi import WebSocket
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from adastate.live.fragments import FragmentedVideo
from adastate.live.guards import Guards
from adastate.live.messages import Bucket, Opening, Refusal, read_opening
from adastate.live.session_door import GONE_SOCKET, UNAUTHORIZED, next_text
from adastate.live.session_hub import Hub
from adastate.live.step import Step
from adastate.live.stream_channel import Channel, Entry

START_S, STALL_S = 10, 60
START_BYTES, INTERACTION_BYTES = 4 * 2**20, 128 * 2**10

KEYS = {0: ("a", "d"), 1: ("k", "i"), 2: ("s", "w")}
"""For each axis of a camera's translation, +X right, +Y up, +Z forward: the keys for its negative and positive side."""

_Name = Annotated[str, Field(min_length=1, max_length=64)]


class _Open(BaseModel):
    model_config = ConfigDict(allow_inf_nan=False)


class _Reference(_Open):
    image_url: str


class _Start(_Open):
    """The fields of `session.start` that are supported here; all others are ignored."""

    type: Literal["session.start"]
    prompt: str
    format: Literal["m4s"] = "m4s"
    seconds: Annotated[float, Field(gt=0)] | None = None
    num_frames: Annotated[int, Field(gt=0)] | None = None
    seed: Annotated[int, Field(ge=0, lt=2**63)] | None = None
    image_reference: _Reference | None = None
    extra_params: dict[str, Any] = {}
    sampling_params: dict[str, Any] = {}


class _Camera(_Open):
    class Pose(_Open):
        translation: Annotated[list[float], Field(min_length=3, max_length=3)]
        rotation: Annotated[list[float], Field(min_length=4, max_length=4)]

    mode: Literal["target", "velocity"]
    data: Pose


class _Event(_Open):
    class Modal(_Open):
        camera: _Camera | None = None

    prompt: str | None = None
    negative_prompt: str | None = None
    multi_modal_data: Modal | None = None


class _Interaction(_Open):
    class Body(_Open):
        event_id: _Name | None = None
        event: _Event
        transition_chunks: Annotated[int, Field(ge=1, le=10000)] | None = None

    type: Literal["session.interaction"]
    interaction: Body


class _Word(_Open):
    type: Literal["session.ping", "session.stop"]


_SAID: TypeAdapter[_Interaction | _Word] = TypeAdapter(Annotated[_Interaction | _Word, Field(discriminator="type")])


@dataclass
class _Under:
    """An event that waits for its chunk, or is in effect: `left` is the number of its remaining chunks."""

    ident: str
    left: int
    numbers: set[int]
    started: bool = False


class RealtimeVideo:
    """Serves sockets, each for one stream."""

    def __init__(self, hub: Hub, guards: Guards) -> None:
        self.hub, self.guards = hub, guards

    async def __call__(self, socket: WebSocket) -> None:
        await socket.accept()
        with suppress(*GONE_SOCKET):
            if not self.guards.told(socket.headers.get("authorization")):
                await _say(socket, _error("this server was started with a token: Authorization: Bearer TOKEN"))
                await socket.close(UNAUTHORIZED)
                return
            try:
                text = await asyncio.wait_for(next_text(socket), START_S)
                start = _read_start(text)
                channel, _ = await self.hub.open(_opening(start, self.hub))
            except TimeoutError:
                await _say(socket, _error(f"no session.start arrived within {START_S} seconds"))
            except Refusal as error:
                await _say(socket, _error(str(error)))
            else:
                await _Rollout(self.hub, socket, channel, start).run()
            await socket.close(1000)


class _Rollout:
    """One stream from its start to its end."""

    def __init__(self, hub: Hub, socket: WebSocket, channel: Channel, start: _Start) -> None:
        self.hub, self.socket, self.channel = hub, socket, channel
        self.request, self.chunks, self.stopped = f"video-{secrets.token_hex(8)}", 0, False
        self.events: dict[str, _Under] = {}
        self.frames = start.num_frames or (math.ceil(start.seconds * channel.fps) if start.seconds else None)
        self.video = FragmentedVideo(channel.fps, channel.height, channel.width)
        self.config = {
            "prompt": start.prompt,
            "seed": channel.seed,
            "width": channel.width + channel.width % 2,
            "height": channel.height + channel.height % 2,
            "fps": channel.fps,
            "num_frames": self.frames,
        }
        self.made = 0
        self.ended = False
        channel.states, channel.pack = False, self._pack

    async def run(self) -> None:
        channel = self.channel
        await self._told("video.start", format="m4s", config=self.config)
        attached = channel.attach(None)
        self.hub.pacing.wake.set()
        tasks = [asyncio.create_task(self._out(channel.leaving(attached))), asyncio.create_task(self._in())]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            if not any(isinstance(task.exception(), GONE_SOCKET) for task in done):
                await self._finish()
        finally:
            await self.hub.close(channel)

    # ---- chunks

    def _pack(self, step: Step, _: dict[str, Any]) -> tuple[dict[str, Any], bytes]:
        frames = step.video if self.frames is None else step.video[: max(0, self.frames - self.made)]
        self.made += len(frames)
        self.ended = self.frames is not None and self.made >= self.frames
        numbers = {receipt.number for receipt in step.receipts}
        under = [event for event in list(self.events.values()) if event.started or event.numbers & numbers]
        started = [event.ident for event in under if not event.started]
        for event in under:
            event.started, event.left = True, event.left - 1
        completed = [event.ident for event in under if event.left <= 0]
        for ident in completed:
            del self.events[ident]
        told = {
            "generation_chunk_index": step.chunk,
            "num_frames": len(frames),
            "started_event_ids": started,
            "active_event_ids": [event.ident for event in under],
            "completed_event_ids": completed,
        }
        return {"media": told, "last": self.ended}, self.video.append(frames)

    async def _out(self, leaving: Any) -> None:
        async for item in leaving:
            if isinstance(item, Entry):
                await asyncio.wait_for(self._media("media", item.message["media"], item.data), STALL_S)
                self.channel.acknowledge(item.seq)
                self.channel.active = time.monotonic()
                self.hub.pacing.wake.set()
                if item.message["last"]:
                    return
            elif item["type"] == "error":
                await self._told("error", message=item["message"])
                return
            elif item["type"] == "closed":
                self.stopped = True
                return

    async def _media(self, kind: str, told: dict[str, Any], data: bytes) -> None:
        index, self.chunks = self.chunks, self.chunks + 1
        numbers = {"transport_chunk_index": index, "byte_length": len(data)}
        await self._told("video.chunk_metadata", kind=kind, **numbers, **told)
        await self.socket.send_bytes(data)

    async def _finish(self) -> None:
        async with self.channel.group.between_chunks():
            rest = await asyncio.to_thread(self.video.close)
        if rest:
            told = {"generation_chunk_index": None, "num_frames": 0}
            ids: dict[str, Any] = {"started_event_ids": [], "active_event_ids": [], "completed_event_ids": []}
            await self._media("trailer", {**told, **ids}, rest)
        await self._told("session.done", chunks=self.chunks, stopped=self.stopped)

    async def _told(self, kind: str, /, **fields: Any) -> None:
        await _say(self.socket, {"type": kind, "request_id": self.request, **fields})

    # ---- controls

    async def _in(self) -> None:
        bucket = Bucket(self.hub.limits.messages_per_s)
        while not self.stopped:
            try:
                text = await next_text(self.socket)
                await bucket.wait()
                await self._obey(text)
            except Refusal as error:
                more = {"event_id": error.ident} if error.ident else {}
                code = {"code": error.code} if error.code in ("event_id_conflict", "interaction_failed") else {}
                await self._told("error", message=str(error), **code, **more)

    async def _obey(self, text: str) -> None:
        if len(text.encode("utf-8", "replace")) > INTERACTION_BYTES:
            raise Refusal("too_large", f"a message may have at most {INTERACTION_BYTES} bytes after the first")
        try:
            said = _SAID.validate_json(text)
        except ValidationError as error:
            raise Refusal("bad_message", _first(error, "session.interaction, session.ping, session.stop")) from None
        if isinstance(said, _Word):
            if said.type == "session.ping":
                await self._told("session.pong")
            self.stopped = said.type == "session.stop"
            return
        body = said.interaction
        ident = body.event_id or f"event-{secrets.token_hex(6)}"
        if ident in self.events:
            raise Refusal("event_id_conflict", "an event with this event_id is still in effect", ident=ident)
        event = self.events[ident] = _Under(ident, body.transition_chunks or 1, set())
        await self._told("session.interaction.queued", event_id=ident)
        try:
            await self._interact(body.event, event)
        except Refusal as error:
            self.events.pop(ident, None)
            raise Refusal("interaction_failed", str(error), ident=ident) from None

    async def _interact(self, asked: _Event, event: _Under) -> None:
        camera = asked.multi_modal_data.camera if asked.multi_modal_data else None
        if asked.negative_prompt is not None:
            raise Refusal("bad_value", "negative prompts are not supported: leave it out")
        if asked.prompt is None and camera is None:
            raise Refusal("bad_value", "an event needs a prompt, a camera, or both")
        keys = None if camera is None else _held(camera, self.hub.model.actions)
        text = asked.prompt
        if text is not None:
            if len(text) > self.hub.limits.prompt_chars:
                raise Refusal("bad_value", f"a prompt has at most {self.hub.limits.prompt_chars} characters")
            event.numbers.add(await self.hub.control(self.channel, None, lambda s: s.prompt(text)))
        if keys is not None:
            event.numbers.add(await self.hub.control(self.channel, None, lambda s: s.act(keys)))


def _held(camera: _Camera, actions: int) -> str:
    """The keys that correspond to a camera velocity."""
    if not actions:
        raise Refusal("bad_value", "these weights cannot be steered: leave the camera out")
    if camera.mode == "target":
        raise Refusal("bad_value", "a camera's mode must be velocity: these weights do not support absolute poses")
    known, (x, y, z) = "wasdijkl"[:actions], camera.data.translation
    held = [KEYS[axis][value > 0] for axis, value in enumerate((x, y, z)) if abs(value) > 1e-6]
    _, turn, _, _ = camera.data.rotation
    if abs(turn) > 1e-6:  # about the vertical axis
        held.append("d" if turn > 0 else "a")
    return "".join(dict.fromkeys(key for key in held if key in known))


def _read_start(text: str) -> _Start:
    if len(text.encode("utf-8", "replace")) > START_BYTES:
        raise Refusal("too_large", f"session.start has at most {START_BYTES} bytes")
    try:
        start = _Start.model_validate_json(text)
        lifted = {name: value for name, value in start.sampling_params.items() if name in ("seed", "num_frames")}
        given = start.model_dump(exclude_unset=True)
        return _Start.model_validate({**lifted, **given}) if lifted else start
    except ValidationError as error:
        raise Refusal("bad_message", _first(error, "session.start")) from None


def _opening(start: _Start, hub: Hub) -> Opening:
    image = start.image_reference.image_url if start.image_reference else None
    if image is not None and not image.startswith("data:"):
        raise Refusal("bad_value", "image_url must be a data: URL; this server downloads nothing")
    system = start.extra_params.get("system")
    told = {"v": 1, "prompt": start.prompt, "seed": start.seed or 0, "system": system, "history": 0, "image": image}
    return read_opening(json.dumps(told).encode(), hub.limits)


def _first(error: ValidationError, known: str) -> str:
    first = error.errors(include_url=False, include_input=False, include_context=False)[0]
    if first["type"] == "json_invalid":
        return "this is not JSON"
    place = [str(part) for part in first["loc"] if str(part).isidentifier() and len(str(part)) <= 32]
    if not place or first["type"].startswith("union_tag") or place[-1] == "type":
        return f"the type of a message is one of {known}"
    return f"{place[-1]}: {first['msg'][0].lower()}{first['msg'][1:]}"


def _error(sentence: str) -> dict[str, Any]:
    return {"type": "error", "message": sentence}


async def _say(socket: WebSocket, message: dict[str, Any]) -> None:
    await socket.send_text(json.dumps(message, ensure_ascii=False))
