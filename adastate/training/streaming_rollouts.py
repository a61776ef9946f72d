"""Streams that are carried on from iteration to iteration: LongLive's streaming long tuning (arXiv 2509.22622).

Each rollout takes up where the last one ended, with the same cache, and makes one horizon less a chunk of new frames;
the scores see them after the last chunk of what was there. At its longest a stream ends, and the next one begins with
the prompts of the batch at hand. All ranks and micro batches begin, switch and end alike.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, distributed

from adastate.diffusion.noise import SampleNoise
from adastate.encoders import starts_with_a_picture
from adastate.models.actions import Steering
from adastate.stream import StateCache
from adastate.stream.cache_state import detached, fork, restored_cache, saved
from adastate.training.student import Student
from adastate.training.student_rollouts import MicroBatch, RolloutDraw, StudentSample, continue_rollout, overlapping
from adastate.types import TokenSplit


@dataclass
class StreamBatch:
    """The streams of one micro batch.

    Attributes:
        cache: their memory.
        text: embeddings of the prompt that holds now.
        next_text: of the one to which they switch.
        switch_frame: frame with which they do; None: never.
        frames: made so far.
        tail: the newest latents `[B, F, C, H, W]`, at most a horizon.
        steering: actions of all their frames, where the data of the batch with which they began has them; beyond its
            last frame that one's hold.
    """

    cache: StateCache
    text: Tensor
    next_text: Tensor | None = None
    switch_frame: int | None = None
    frames: int = 0
    tail: Tensor | None = None
    steering: Steering | None = None

    def go_on(
        self, student: Student, noise: SampleNoise, draw: RolloutDraw, grad: bool, record: bool = False
    ) -> StudentSample:
        """The next frames, with gradient where asked for, after the last chunk of those before."""
        new = new_frames(student, self.frames)
        if self.frames == self.switch_frame:
            assert self.next_text is not None
            self.text = self.next_text
            student.switch(self.text, self.cache, self.steering)
        chunks = new // student.chunk_frames
        sample = continue_rollout(
            student, self.text, noise, self.cache, chunks, draw, grad, record=record, steering=self.steering
        )
        content = sample.x.detach()
        if self.tail is not None:
            sample = overlapping(student, self.tail, sample, starts_with_a_picture(student.codec))
            content = torch.cat([self.tail, content], 1)
        if sample.steps:
            sample.steps[-1].clean = None  # nothing comes after it in a replay
        self.tail = content[:, -student.rollout_frames :]
        self.cache = detached(self.cache)
        self.frames += new
        return sample

    def kept(self) -> StreamBatch:
        """As it is now, whatever becomes of it."""
        return replace(self, cache=fork(self.cache))


def new_frames(student: Student, frames: int) -> int:
    """How many a stream of `frames` frames makes next: a horizon at its beginning, later one chunk less."""
    return student.rollout_frames - (student.chunk_frames if frames else 0)


class StreamPool:
    """The carried streams of this process, one StreamBatch a micro batch.

    Args:
        longest: a stream goes on while its next frames do not exceed so many.
    """

    def __init__(self, student: Student, longest: int) -> None:
        self.student, self.longest = student, longest
        self._now: list[StreamBatch] = []
        self._before: list[StreamBatch] = []
        self._whole: dict[str, Any] = {}
        """Of a checkpoint, rows of all ranks, until the micro batches are known."""

    def switch_chunks(self) -> range:
        """Chunks with which a stream may switch to its next prompt: where a rollout ends and another begins."""
        horizon, size = self.student.rollout_frames, self.student.chunk_frames
        step = new_frames(self.student, horizon)
        return range(horizon // size, (self.longest - step) // size + 1, step // size)

    @property
    def frames(self) -> int:
        """Made so far by the streams that go on."""
        return self._now[0].frames if self._now else 0

    def begin(self, parts: Sequence[MicroBatch]) -> None:
        """At the start of an iteration: what `back` goes back to."""
        if self._whole:
            self._now, self._whole = [_cut(self._whole, self.student, part) for part in parts], {}
        self._before = [carried.kept() for carried in self._now]

    def back(self, restart: bool = False) -> None:
        """As if the iteration had not begun; `anew` gives the streams up, for they may be what is wrong."""
        self._now = [] if restart else self._before

    def next_sample(
        self, part: MicroBatch, noise: SampleNoise, draw: RolloutDraw, grad: bool, record: bool = False
    ) -> StudentSample:
        """One rollout of a micro batch; `draw.switch_chunk` holds if a stream begins."""
        if part.slot >= len(self._now) or not self._fits(self._now[part.slot]):
            at = None if draw.switch_chunk is None else draw.switch_chunk * self.student.chunk_frames
            begun = StreamBatch(StateCache(self.student.spec), part.text, part.next_text, at, steering=part.steering)
            self._now = [*self._now[: part.slot], begun]  # the ones after it end as well
        return self._now[part.slot].go_on(self.student, noise, draw, grad, record)

    def _fits(self, carried: StreamBatch) -> bool:
        return carried.frames + new_frames(self.student, carried.frames) <= self.longest

    # ---- checkpoints

    def state_dict(self) -> dict[str, Any]:
        """Of the streams of all ranks, on rank 0; every rank has to call it. Empty where there are none."""
        if self._whole or not self._now:
            return self._whole
        split = self.student.net.split
        several = 1 if split is None else split.degree
        made = [saved_stream(c, split) for c in self._now]
        whole: dict[str, Any] = _merged(made, lambda parts: _gathered(parts, several))
        return whole

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._now, self._whole = [], state


def saved_stream(carried: StreamBatch, split: TokenSplit | None = None) -> dict[str, Any]:
    """Plain data of the streams; with a `split` its ranks call it together."""
    plain = {name: getattr(carried, name) for name in ("text", "next_text", "switch_frame", "frames", "tail")}
    flagged = None if carried.steering is None else carried.steering.flagged.to(carried.text.device)
    return {**plain, "actions": flagged, "cache": saved(carried.cache, split)}


def _cut(whole: dict[str, Any], student: Student, part: MicroBatch) -> StreamBatch:
    """This process's rows of the streams of all."""
    split = student.net.split
    rank, world = (distributed.get_rank(), distributed.get_world_size()) if _several() else (0, 1)
    if split is not None:
        rank, world = rank // split.degree, world // split.degree
    batch = len(part.index)
    first = (part.slot * world + rank) * batch
    rows = len(whole["text"])
    if first + batch > rows:
        raise ValueError(
            f"the checkpoint carries {rows} streams on, and this run has at least {first + batch}: resume with the "
            "same global_batch"
        )
    mine = _merged([whole], lambda parts: parts[0][first : first + batch].to(student.device).clone())
    flagged = mine.pop("actions", None)  # checkpoints of older versions have none
    steering = None if flagged is None else Steering(flagged)
    return StreamBatch(restored_cache(student.spec, mine.pop("cache"), split), steering=steering, **mine)


def _merged(states: list[Any], join: Callable[[list[Tensor]], Any]) -> Any:
    """One structure out of several equal ones: tensors joined, lists and dicts gone through, the rest the first's."""
    one = states[0]
    if isinstance(one, Tensor):
        return join(states)
    if isinstance(one, dict):
        return {k: _merged([s[k] for s in states], join) for k in one}
    if isinstance(one, list):
        return [_merged(list(each), join) for each in zip(*states, strict=True)]
    return one


def _gathered(parts: list[Tensor], sharing: int) -> Tensor:
    """Rows of all micro batches and ranks, in the order of their sample numbers, on rank 0's processor; `sharing`
    neighbouring ranks have the same rows."""
    if not _several():
        return torch.cat(parts).cpu()
    world, leads = distributed.get_world_size(), distributed.get_rank() == 0
    rows: list[Tensor] = []
    for part in parts:
        raw = part.detach().contiguous().view(torch.uint8)  # gloo does not know every kind of number
        into = [torch.empty_like(raw) for _ in range(world)] if leads else None
        distributed.gather(raw, into, dst=0)
        rows += [r.view(part.dtype).cpu() for r in (into or [])[::sharing]]
    return torch.cat(rows) if rows else torch.empty(0)


def _several() -> bool:
    return distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1
