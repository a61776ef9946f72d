"""When the next chunk of which sessions is made: at the video's rate, together where they are due together.

A chunk is begun so long before it is due as chunks took of late, and leaves when it is due. Sessions that are due a
moment later are taken along, because one pass for several costs little more than for one; what is early waits.
"""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

from adastate.live.batch import SessionBatch
from adastate.live.step import Step
from adastate.live.stream_channel import Channel, Lockstep
from adastate.live.worker import Worker
from adastate.runtime.spelling import one_line

ALONG = 0.05
"""Seconds before it is due in which a session is taken along with others."""

LEAD = 0.1
"""Seconds at most that a chunk is begun before it is due: a control that comes in between waits for the next one."""


class Pacing:
    """Makes the chunks of all groups.

    Args:
        worker: that steps the sessions.
        paced: whether chunks keep to the video's rate; else they are made as fast as they are acknowledged.
    """

    def __init__(self, worker: Worker, paced: bool = True) -> None:
        self.worker, self.paced = worker, paced
        self.groups: list[Lockstep] = []
        self.wake = asyncio.Event()
        self._batch = SessionBatch()
        self._pool = ThreadPoolExecutor(2, "live-pack")
        self._tasks: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Until it is cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            self.wake.clear()
            now = loop.time()
            ready = [(self._begin(group, now), group) for group in self.groups if group.ready]
            soonest = min((begin for begin, _ in ready), default=None)
            if soonest is None or soonest > now:
                with suppress(TimeoutError):
                    await asyncio.wait_for(self.wake.wait(), None if soonest is None else soonest - now)
                continue
            await self._step([group for begin, group in ready if begin <= now + ALONG])

    def _begin(self, group: Lockstep, now: float) -> float:
        if not self.paced or group.due is None:
            return now
        return group.due - min(LEAD, 1.2 * group.work)

    async def _step(self, groups: list[Lockstep]) -> None:
        began = asyncio.get_running_loop().time()
        channels = [channel for group in groups for channel in group.members]
        for group in groups:
            group.in_flight = True

        def job() -> list[tuple[Step | Exception, dict[str, Any]]]:
            steps = self._batch.step([channel.session for channel in channels if channel.session is not None])
            made = dict(zip(channels, steps, strict=True))
            for group in groups:
                _in_step(group, made)
            for channel in channels:
                channel.note()
            return [(step, channel.facts) for channel, step in made.items()]

        try:
            made = dict(zip(channels, await self.worker.call(job), strict=True))
        except Exception as error:  # of all sessions at once
            made = {channel: (error, channel.facts) for channel in channels}
        for group in groups:
            task = asyncio.create_task(self._deliver(group, made, began, len(channels)))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _deliver(
        self, group: Lockstep, made: dict[Channel, tuple[Step | Exception, dict[str, Any]]], began: float, batch: int
    ) -> None:
        """Packs the chunks of a group, while others are being made, and sets its clock."""
        loop = asyncio.get_running_loop()
        packed, seconds = [], 0.0
        try:
            for channel in group.members:
                step, facts = made[channel]
                if isinstance(step, Exception):
                    raise step
                channel.prompt, channel.keys = step.prompt, step.keys
                message, data = await loop.run_in_executor(self._pool, _pack, channel, step, facts)
                message.get("timings", {})["batch"] = batch
                packed.append((channel, step, message, data))
                seconds = len(step.video) / channel.fps / group.speed
        except Exception as error:
            group.paused = True
            for channel in group.members:
                channel.post("error", id=None, code="failed", message=f"the next chunk failed: {one_line(error, 500)}")
                channel.post("state", id=None, session=channel.told)
        else:
            now = loop.time()
            group.work += (now - began - group.work) * (0.3 if group.work else 1.0)
            due = now if group.due is None or not self.paced else group.due
            late = max(0.0, now - due)
            for channel, step, message, data in packed:
                message.get("timings", {})["late_s"] = round(late, 4)
                channel.hold(step, message, data, due)
            group.due = (due if late < seconds / 2 else now) + seconds
        finally:
            group.in_flight = False
            group.done.set()
            self.wake.set()

    def close(self) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)


def _pack(channel: Channel, step: Step, facts: dict[str, Any]) -> tuple[dict[str, Any], bytes]:
    if channel.recording is not None and not channel.recording.full:
        channel.recording.append(step)
    return channel.pack(step, facts)


def _in_step(group: Lockstep, made: dict[Channel, Step | Exception]) -> None:
    """Of two that go on in step neither does where one could not."""
    failed = [step for member in group.members if isinstance(step := made[member], Exception)]
    for member in group.members if failed else ():
        if member.session is not None and isinstance(made[member], Step) and len(member.session.history):
            member.session.rollback(chunks=1)
            made[member] = failed[0]
