"""Generates the clips that are scored in each iteration: which rollout, and all that is drawn for it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal

from adastate.diffusion.noise import SampleNoise, agree, shared_integer
from adastate.stream import Exits
from adastate.training.streaming_rollouts import StreamPool, new_frames
from adastate.training.student import Student
from adastate.training.student_rollouts import (
    MicroBatch,
    RolloutDraw,
    StudentSample,
    denoise_real_clips,
    rollout_from_start,
    rollout_window,
)

Source = Literal["rollout", "noised"]

Rollout = Callable[[bool, bool], StudentSample]
"""(with a graph, with what it takes to run its chunks again) -> what the scores look at."""


@dataclass(frozen=True)
class LongRollout:
    """Training on rollouts beyond the horizon.

    Attributes:
        frames: their length in latent frames.
        mode: what of them is scored, and has the gradient. `windows`: a window of the horizon at a random place, as in
            Self-Forcing++, or, as nothing is made beyond it, the last horizon of a rollout whose length is drawn, as in
            Rolling-Forcing; `streaming`: a stream goes on from iteration to iteration until it is so long, and its new
            frames are scored, as in LongLive (adastate/training/streaming_rollouts.py).
        save_streams: whether carried streams are part of checkpoints. Without, a resumed run begins new ones: it is not
            the same bit for bit, and its checkpoints are smaller by the caches of a whole global batch.
    """

    frames: int
    mode: Literal["windows", "streaming"] = "windows"
    save_streams: bool = True


@dataclass(frozen=True)
class RolloutSettings:
    """Which clips are scored.

    Attributes:
        source: `rollout`: the student's own streams; `noised`: real clips at the student's levels, denoised in one
            causal pass, as in CausVid (the data then has latents).
        long_rollout: rollouts beyond the horizon; None: the horizon itself.
        prompt_switch_prob: share of the long streams in which the prompt changes, at a random place, to the data's
            next one.
        uniform_schedule_prob: share of the iterations in which a staircase goes chunk by chunk (Rolling-Forcing: half).
    """

    source: Source = "rollout"
    long_rollout: LongRollout | None = None
    prompt_switch_prob: float = 0.0
    uniform_schedule_prob: float = 0.0


THOUSAND = 1000
"""Shares are drawn to a thousandth."""


class RolloutSampler:
    """Makes the samples of an iteration; every draw is one for all chunks, samples and ranks.

    Args:
        seed: of the draws.

    Raises:
        ValueError: for settings that exclude each other, or that the student's stream does not allow.
    """

    def __init__(self, student: Student, settings: RolloutSettings, seed: int = 0) -> None:
        self.student, self.seed, self.source, self.long = student, seed, settings.source, settings.long_rollout
        self.prompt_switch_prob = settings.prompt_switch_prob
        self.uniform_schedule_prob = settings.uniform_schedule_prob
        self._check()
        streaming = self.long is not None and self.long.mode == "streaming"
        self.streams = StreamPool(student, self.long.frames) if streaming and self.long is not None else None

    def _check(self) -> None:
        spec, horizon = self.student.spec, self.student.rollout_frames
        for name in ("prompt_switch_prob", "uniform_schedule_prob"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it is a share, from 0 to 1")
        if self.uniform_schedule_prob and spec.schedule != "staircase":
            raise ValueError(
                f"uniform_schedule_prob {self.uniform_schedule_prob} is a share of staircases; schedule is "
                f"{spec.schedule!r}"
            )
        if self.long is None:
            if self.prompt_switch_prob:
                raise ValueError(
                    f"prompt_switch_prob {self.prompt_switch_prob} is about rollouts beyond the horizon of {horizon} "
                    "frames: set long_rollout.frames, their length"
                )
            return
        if spec.first_chunk_frames not in (None, spec.chunk_frames):
            raise ValueError(
                f"long_rollout needs chunks of one size, and first_chunk_frames is {spec.first_chunk_frames}"
            )
        if spec.schedule == "staircase" and (self.long.mode == "streaming" or self.prompt_switch_prob):
            raise ValueError(
                "a staircase has several chunks in a pass, so that it can be neither carried on nor switched between "
                "them: use long_rollout.mode 'windows' and prompt_switch_prob 0"
            )
        if self.source != "rollout":
            raise ValueError(f"long_rollout is about the student's own rollouts; source is {self.source!r}")
        streaming = self.long.mode == "streaming"
        least = horizon + (new_frames(self.student, horizon) if streaming else 0)
        if not streaming:
            spec.chunks(self.long.frames)
        if self.long.frames < least:
            raise ValueError(
                f"long_rollout.frames {self.long.frames} is below {least}, the horizon"
                + (" and what a stream goes on by" if streaming else "")
                + ": make it longer"
            )

    def draw(self, iteration: int, purpose: str) -> RolloutDraw:
        """Of the rollout for `purpose`; ranks that would differ raise."""
        key = (self.seed, iteration, purpose)
        uniform = shared_integer(THOUSAND, *key, "schedule") < THOUSAND * self.uniform_schedule_prob
        first, switch = 0, None
        if self.streams is not None:
            places = self.streams.switch_chunks()
        else:
            beyond = 0 if self.long is None else self.long.frames - self.student.rollout_frames
            first = shared_integer(beyond // self.student.chunk_frames + 1, *key, "window") if beyond else 0
            places = range(1, (0 if self.long is None else self.long.frames) // self.student.chunk_frames)
        if shared_integer(THOUSAND, *key, "switch") < THOUSAND * self.prompt_switch_prob:
            switch = places[shared_integer(len(places), *key, "switched at")]
        exits = self._exits(key, uniform, first)
        drawn = {"iteration": iteration, "first chunk": first, "schedule": int(uniform)}
        passes = {"exit level": exits.level, "first exit level": exits.first_level, "window phase": exits.window_phase}
        length = {"state phase": exits.state_phase, "rollout frames": self.student.rollout_frames, "switch": switch}
        streamed = {} if self.streams is None else {"streamed frames": self.streams.frames}
        every = {**drawn, **passes, **length, **streamed}
        agree({name: -1 if value is None else value for name, value in every.items()}, self.student.device)
        return RolloutDraw(exits, first, switch, uniform)

    def _exits(self, key: tuple[int | str, ...], uniform: bool, first: int) -> Exits:
        """Those of a rollout whose scored window begins with chunk `first`; each draw is one of its own."""
        spec = self.student.spec
        level, cut = shared_integer(len(spec.timesteps), *key), shared_integer(spec.state_grad + 1, *key, "state phase")
        if spec.schedule == "staircase" and not uniform:
            return Exits(window_phase=level, quiet_frames=first * spec.chunk_frames)
        own = len(spec.first_chunk_denoising_steps)
        return Exits(level, shared_integer(own, *key, "first chunk") if own else None, state_phase=cut)

    def noise(self, part: MicroBatch, iteration: int, purpose: str) -> SampleNoise:
        return SampleNoise(self.seed, iteration, part.index, purpose, self.student.device)

    def rollout(self, part: MicroBatch, iteration: int, purpose: str) -> Rollout:
        """The rollout of a micro batch, with everything drawn for it; it runs when it is called.

        Args:
            purpose: of the iteration's rollouts, for randomness of its own.
        """
        if self.source == "noised":
            if part.latents is None:
                raise ValueError("source 'noised' denoises real clips: give the stage data with latents, ShardData say")
            noise = self.noise(part, iteration, f"noised {purpose}")
            return partial(denoise_real_clips, self.student, part, noise)
        draw, noise = self.draw(iteration, purpose), self.noise(part, iteration, f"rollout {purpose}")
        if self.streams is not None:
            return partial(self.streams.next_sample, part, noise, draw)
        made = rollout_from_start if self.long is None else rollout_window
        return partial(made, self.student, part, noise, draw)
