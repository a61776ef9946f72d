"""All sessions of a server: opens, forks and closes them, parks idle ones as snapshots and reopens those."""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from PIL import Image

from adastate.live.messages import VERSION, Limits, Opening, Refusal, Rollback, decoded_picture
from adastate.live.model import LiveModel
from adastate.live.opening import open_session
from adastate.live.pacing import Pacing
from adastate.live.recording import Recording
from adastate.live.session import Session
from adastate.live.shelf import Shelf
from adastate.live.snapshot import Snapshot
from adastate.live.stream_channel import Channel, Lockstep
from adastate.live.worker import Worker
from adastate.runtime.spelling import one_line

CONTROLS = 256
"""Maximum number of controls that wait for a session's next chunk."""

GONE = "there is no such session: it was closed, or its snapshot has expired"


class Hub:
    """Sessions by their id. All methods run in the event loop's thread; the worker thread does what touches a session.

    Args:
        model: model of the sessions.
        run: name of the streamed run, for display.
        paced: see Pacing.
        opened: opens a session, as open_session does.
    """

    def __init__(
        self,
        model: LiveModel,
        run: str,
        limits: Limits | None = None,
        paced: bool = True,
        opened: Callable[..., Session] = open_session,
    ) -> None:
        self.model, self.run, self.limits, self.opened = model, run, limits or Limits(), opened
        self.worker = Worker()
        self.pacing = Pacing(self.worker, paced)
        self.channels: dict[str, Channel] = {}
        self.shelf = Shelf(self)
        self._opening = 0
        self._folder = tempfile.TemporaryDirectory(prefix="adastate-live-")
        self._tasks: list[asyncio.Task[None]] = []

    # ---- start and stop

    def start(self) -> None:
        """Starts the tasks in the running event loop."""
        self._tasks = [asyncio.create_task(self.pacing.run()), asyncio.create_task(self.shelf.watch())]

    async def stop(self) -> None:
        """Notifies every client and releases everything."""
        for task in self._tasks:
            task.cancel()
        for channel in self.channels.values():
            channel.post("closed", reason="ended")
        await asyncio.sleep(0.05)  # the sockets send it
        self.worker.close()
        self.pacing.close()
        for channel in self.channels.values():
            _without_recordings(channel)
        self._folder.cleanup()

    @property
    def info(self) -> dict[str, Any]:
        """The answer to `GET /v1/info`."""
        model = self.model
        return {
            "v": VERSION,
            "run": self.run,
            "fps": model.fps,
            "width": model.width,
            "height": model.height,
            "system": model.system,
            "systems": list(model.systems),
            "world": model.world,
            "vocabulary": list(model.vocabulary),
            "examples": list(model.examples),
            "actions": model.actions,
            "keys": "wasdijkl"[: model.actions],
            "kinds": ["keep", "recache", "flush", "cut"],
            "anchors": ["keep", "reset"],
            "encodings": ["auto", "raw", "png", "webp", "jpeg"],
            "speeds": [0.25, 4.0],
            "limits": self.limits.model_dump(),
        }

    # ---- sessions

    def get(self, ident: str) -> Channel:
        if ident not in self.channels:
            raise Refusal("no_session", GONE, 404)
        return self.channels[ident]

    async def open(self, opening: Opening) -> tuple[Channel, Channel | None]:
        """Opens a session, and its twin under another system if one is requested; raises Refusal."""
        systems = [opening.system] if opening.pair is None else [opening.system, opening.pair]
        coded, limits = opening.image, self.limits
        image = None if coded is None else await asyncio.to_thread(decoded_picture, coded, limits)
        with self.room(len(systems)):

            def job() -> list[Session]:
                return [self._session(opening, system, image) for system in systems]

            sessions = await self.told(job)
        channels = [Channel(session, opening.prompt, limits, opening.history) for session in sessions]
        for channel in channels:
            channel.replays = image is None
            self.channels[channel.id] = channel
        self._join(*channels)
        return channels[0], channels[1] if len(channels) > 1 else None

    def _session(self, opening: Opening, system: str | None, image: Image.Image | None) -> Session:
        script = opening.script
        session = self.opened(self.model, opening.prompt, opening.seed, system, image, opening.history, script)
        session.measure_attention = True
        return session

    def _join(self, *channels: Channel) -> None:
        """Puts these sessions into one group, which runs in step."""
        group = Lockstep(list(channels))
        for channel in channels:
            channel.group = group
        self.pacing.groups.append(group)

    @contextmanager
    def room(self, count: int) -> Iterator[None]:
        """Reserves room for this many sessions while they are opened."""
        there = sum(channel.parked is None for channel in self.channels.values())
        if there + self._opening + count > self.limits.sessions:
            raise Refusal("limit", f"this server allows {self.limits.sessions} sessions: close one, or wait", 429)
        self._opening += count
        try:
            yield
        finally:
            self._opening -= count

    async def fork(self, channel: Channel, to: int | None) -> Channel:
        """Opens a second session that continues independently from here, or from chunk `to`."""
        with self.room(1):
            async with channel.group.between_chunks():

                def job() -> Session:
                    twin = open_of(channel).fork()
                    if to is not None:
                        twin.rollback(to=to)
                    return twin

                session = await self.told(job)
            twin = Channel(session, channel.opened_with, self.limits, channel.history)
            twin.prompt, twin.keys, twin.replays = channel.prompt, channel.keys, channel.replays
            self.channels[twin.id] = twin
            self._join(twin)
        self.pacing.wake.set()
        return twin

    async def rollback(self, channel: Channel, said: Rollback) -> int:
        """Rolls back the session and its twin; returns the number of the next chunk."""
        async with channel.group.between_chunks():

            def job() -> int:
                members = [open_of(member) for member in channel.group.members]
                to = said.to if said.to is not None or said.chunks is None else members[0].chunk - said.chunks
                if to is None or (said.to is not None and said.chunks is not None):
                    raise ValueError("a rollback takes either `chunks` or `to`: give exactly one of them")
                if any(to != member.chunk and to not in member.history for member in members):
                    there = members[0].history
                    raise ValueError(f"rollback can reach chunks {there.start} to {members[0].chunk}, not {to}")
                for member in members:
                    member.rollback(to=to)
                return to

            to = await self.told(job)
            for member in channel.group.members:
                self._anew(member)
        return to

    def _anew(self, channel: Channel) -> None:
        """Discards generated chunks after a change of branch."""
        channel.note()
        channel.held.clear()
        channel.group.due = None
        self.pacing.wake.set()

    async def control(self, channel: Channel, ident: str | None, ask: Callable[[Session], int]) -> int:
        """Applies a prompt or an act, to the twin in the same chunk too; returns the control's number."""
        if channel.twin is None:
            numbers = [self._numbered(channel, ident, ask)]
        else:
            async with channel.group.between_chunks():
                numbers = [self._numbered(m, ident if m is channel else None, ask) for m in channel.group.members]
        return numbers[0]

    def _numbered(self, channel: Channel, ident: str | None, ask: Callable[[Session], int]) -> int:
        if len(channel.idents) >= CONTROLS:
            raise Refusal("limit", f"{CONTROLS} controls already wait for the next chunk: let it come first", 429)
        try:
            number = ask(open_of(channel))
        except ValueError as error:
            raise Refusal("bad_value", one_line(error, 500)) from None
        channel.idents[number] = ident
        return number

    async def close(self, channel: Channel, reason: str = "asked") -> None:
        """Closes a session; its twin continues alone."""
        twin, group = channel.twin, channel.group
        async with group.between_chunks():
            self.channels.pop(channel.id, None)
            if channel in group.members:
                group.members.remove(channel)
            if channel.session is not None:
                await self.worker.call(channel.session.close)
                channel.session = None
        self._forget(channel)
        if not group.members and group in self.pacing.groups:
            self.pacing.groups.remove(group)
        if twin is not None:
            twin.post("state", id=None, session=twin.told)
        channel.post("closed", reason=reason)
        self.pacing.wake.set()

    def _forget(self, channel: Channel) -> None:
        if channel.parked is not None:
            channel.parked.unlink(missing_ok=True)
        _without_recordings(channel)

    # ---- snapshots and scripts

    async def snapshot(self, channel: Channel) -> bytes:
        """The bytes of a snapshot file."""
        if channel.parked is not None:
            return channel.parked.read_bytes()
        path = self.file(".safetensors")
        async with channel.group.between_chunks():
            snapshot = await self.told(lambda: open_of(channel).snapshot())

        def write() -> bytes:
            snapshot.save(path)
            data = path.read_bytes()
            path.unlink()
            return data

        return await asyncio.to_thread(write)

    async def restore(self, channel: Channel, data: bytes) -> None:
        """Continues from a snapshot file, which is untrusted; raises Refusal."""
        if channel.twin is not None:
            raise Refusal("bad_value", "a pair cannot be restored from a snapshot, which holds one session", 409)
        path = self.file(".safetensors")
        async with channel.group.between_chunks():

            def job() -> str:
                path.write_bytes(data)
                try:
                    snapshot = Snapshot.load(path)
                    open_of(channel).restore(snapshot)
                finally:
                    path.unlink(missing_ok=True)
                return snapshot.prompt

            try:
                channel.prompt = await self.told(job)
            except Refusal as error:
                told = str(error).replace(str(path), "the file")  # do not reveal the server's paths
                raise Refusal("bad_value", told) from None
            channel.seed = channel.session.seed if channel.session else channel.seed
            channel.replays = False  # the beginning of the restored stream is unknown
            self._anew(channel)
        channel.post("rolled_back", id=None, to=channel.facts["chunk"], session=channel.told)

    def script(self, channel: Channel) -> dict[str, Any]:
        """Everything needed to generate the same stream again."""
        session = channel.session
        if session is None:
            raise Refusal("bad_value", "this session is parked: connect to it first", 409)
        return {
            "v": VERSION,
            "run": self.run,
            "prompt": channel.opened_with,
            "seed": channel.seed,
            "system": channel.system,
            "pair": None if channel.twin is None else channel.twin.system,
            "chunks": channel.facts["chunk"],
            "script": session.script,
            "replays": channel.replays,
        }

    def file(self, suffix: str) -> Path:
        return Path(self._folder.name) / f"{time.monotonic_ns()}{suffix}"

    async def told(self, job: Callable[[], Any]) -> Any:
        """Runs a job in the worker thread; a ValueError of the session becomes a Refusal."""
        try:
            return await self.worker.call(job)
        except ValueError as error:
            raise Refusal("bad_value", one_line(error, 500)) from None

    # ---- recordings

    async def record(self, channel: Channel, on: bool, states: bool) -> dict[str, Any]:
        """Starts or stops a recording; returns the fields of the answer."""
        async with channel.group.between_chunks():
            running, channel.recording = channel.recording, None
            if on:
                if running is not None:
                    running.discard()
                channel.recording = Recording(self.file(".mp4"), channel.fps, states, self.limits.record_s)
                return {"on": True}
            if running is None:
                raise Refusal("bad_value", "nothing is being recorded: start with on, true")
            if not await asyncio.to_thread(running.close):
                raise Refusal("bad_value", "no chunk was generated during the recording")
        if channel.recorded is not None:
            channel.recorded.discard()
        channel.recorded = running
        size, url = running.path.stat().st_size, f"/v1/sessions/{channel.id}/recording"
        return {"on": False, "url": url, "seconds": round(running.seconds, 3), "bytes": size}


def open_of(channel: Channel) -> Session:
    if channel.session is None:
        raise ValueError("this session is parked or closed: connect to it first")
    return channel.session


def _without_recordings(channel: Channel) -> None:
    for recording in (channel.recording, channel.recorded):
        if recording is not None:
            recording.discard()
    channel.recording = channel.recorded = None
