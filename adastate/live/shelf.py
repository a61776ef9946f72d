"""Parks sessions that nobody watches: closes them, keeps their snapshots, and reopens them when the client returns."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from adastate.live.messages import Limits
from adastate.live.model import LiveModel
from adastate.live.pacing import Pacing
from adastate.live.session import Session
from adastate.live.snapshot import Snapshot
from adastate.live.stream_channel import Channel, Lockstep
from adastate.live.worker import Worker


class ShelfOwner(Protocol):
    """What a shelf needs of its hub."""

    model: LiveModel
    limits: Limits
    opened: Callable[..., Session]
    worker: Worker
    pacing: Pacing
    channels: dict[str, Channel]

    def room(self, count: int) -> AbstractContextManager[None]: ...
    def file(self, suffix: str) -> Path: ...
    async def told(self, job: Callable[[], Any]) -> Any: ...
    async def close(self, channel: Channel, reason: str = "asked") -> None: ...


class Shelf:
    """The parked sessions of one hub."""

    def __init__(self, hub: ShelfOwner) -> None:
        self.hub = hub

    async def take_down(self, channel: Channel) -> bool:
        """Reopens a parked session and its twin; returns whether it was parked."""
        if channel.parked is None:
            return False
        members = channel.group.members
        with self.hub.room(len(members)):
            async with channel.group.between_chunks():
                for member in members:
                    await self.hub.told(partial(self._load, member))
        return True

    def _load(self, channel: Channel) -> None:
        if channel.parked is None:
            return
        session = self.hub.opened(
            self.hub.model, channel.opened_with, channel.seed, channel.system, None, channel.history
        )
        session.measure_attention = True
        session.restore(Snapshot.load(channel.parked))
        channel.parked.unlink(missing_ok=True)
        channel.session, channel.parked = session, None
        channel.note()

    async def put_aside(self, group: Lockstep) -> None:
        """Closes the sessions of a group and keeps their snapshots."""
        async with group.between_chunks():
            for channel in group.members:
                if channel.session is None:
                    continue
                session, path = channel.session, self.hub.file(".safetensors")

                def job(session: Session = session, path: Path = path) -> None:
                    session.snapshot().save(path)
                    session.close()

                await self.hub.worker.call(job)
                channel.session, channel.parked = None, path
                channel.detached = time.monotonic()
                channel.post("closed", reason="idle")

    async def watch(self) -> None:
        """Runs until cancelled."""
        limits = self.hub.limits
        pause = max(0.05, min(limits.idle_s, limits.detached_s, limits.kept_s, 4.0) / 4)
        while True:
            await asyncio.sleep(pause)
            now = time.monotonic()
            for group in list(self.hub.pacing.groups):
                if any(_idle(channel, now, limits) for channel in group.members):
                    await self.put_aside(group)
            kept = sorted((c for c in self.hub.channels.values() if c.parked is not None), key=lambda c: c.detached)
            old = [c for c in kept if now - c.detached > limits.kept_s]
            for channel in {*old, *kept[: max(0, len(kept) - limits.kept)]}:
                await self.hub.close(channel, "idle")


def _idle(channel: Channel, now: float, limits: Limits) -> bool:
    if channel.session is None:
        return False
    if channel.socket is None:
        return now - channel.detached > limits.detached_s
    return now - channel.active > limits.idle_s
