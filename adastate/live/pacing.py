"""Schedules chunks: at the video's rate, with sessions that are due together in one batch.

Generation of a chunk starts ahead of its due time by the recent duration of a chunk; a finished chunk is sent when it
is due. Sessions due slightly later join the batch, because a pass for several costs little more than a pass for one.
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
"""Seconds before its own start time from which a session joins the batch of others."""

LEAD = 0.1
"""Maximum seconds by which a chunk starts early: a control that arrives after the start waits for the next chunk."""


class Pacing:
    """Generates the chunks of all groups.

    Args:
        worker: thread that steps the sessions.
        paced: whether chunks keep to the video's rate; else they are generated as fast as they are acknowledged.
    """

    def __init__(self, worker: Worker, paced: bool = True) -> None:
        self.worker, self.paced = worker, paced
        self.groups: list[Lockstep] = []
        self.wake = asyncio.Event()
        self._batch = SessionBatch()
        self._pool = ThreadPoolExecutor(2, "live-pack")
        self._tasks: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Runs until cancelled."""
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
        except Exception as error:  # fails all sessions at once
            made = {channel: (error, channel.facts) for channel in channels}
        for group in groups:
            task = asyncio.create_task(self._deliver(group, made, began, len(channels)))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _deliver(
        self, group: Lockstep, made: dict[Channel, tuple[Step | Exception, dict[str, Any]]], began: float, batch: int
    ) -> None:
        """Packs the chunks of a group, while others are being generated, and updates its due time."""
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
    """If one session of a pair failed, rolls back the other, so that both stay in step."""
    failed = [step for member in group.members if isinstance(step := made[member], Exception)]
    for member in group.members if failed else ():
        if member.session is not None and isinstance(made[member], Step) and len(member.session.history):
            member.session.rollback(chunks=1)
            made[member] = failed[0]
