"""What a distillation's scores look at, iteration by iteration: the choice of rollout, and all that is drawn for it."""

from __future__ import annotations

from typing import Literal

import torch

from adastate.diffusion.noise import SampleNoise, agree, shared_integer
from adastate.training.rollout_samples import Draw, Part, Sample, noised, rolled, window
from adastate.training.streaming_rollouts import Streams, new_frames
from adastate.training.student import Student

Source = Literal["rollout", "noised"]
Long = Literal["windows", "streaming"]

THOUSAND = 1000
"""Shares are drawn to a thousandth."""


class Sampler:
    """Makes the samples of an iteration; every draw is one for all chunks, samples and ranks.

    Args:
        source, long, long_frames, switch_share, plain_share: see Distill.
        seed: of the draws.
    """

    def __init__(
        self,
        student: Student,
        seed: int = 0,
        source: Source = "rollout",
        long: Long = "windows",
        long_frames: int | None = None,
        switch_share: float = 0.0,
        plain_share: float = 0.0,
    ) -> None:
        self.student, self.seed, self.source, self.long = student, seed, source, long
        self.long_frames, self.switch_share, self.plain_share = long_frames, switch_share, plain_share
        self._check()
        streaming = long == "streaming" and long_frames is not None
        self.streams = Streams(student, long_frames or 0) if streaming else None

    def _check(self) -> None:
        spec, horizon = self.student.spec, self.student.rollout_frames
        for name in ("switch_share", "plain_share"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it is a share, from 0 to 1")
        if self.plain_share and spec.schedule != "staircase":
            raise ValueError(f"plain_share {self.plain_share} is a share of staircases; schedule is {spec.schedule!r}")
        if self.long_frames is None:
            if self.long == "streaming" or self.switch_share:
                raise ValueError(
                    f"long {self.long!r} with switch_share {self.switch_share} is about rollouts beyond the horizon of "
                    f"{horizon} frames: set long_frames, their length"
                )
            return
        if spec.schedule != "uniform" or spec.first_chunk_frames not in (None, spec.chunk_frames):
            raise ValueError(
                f"long_frames needs schedule 'uniform' and chunks of one size; got {spec.schedule!r} and "
                f"first_chunk_frames {spec.first_chunk_frames}"
            )
        if self.source != "rollout":
            raise ValueError(f"long_frames is the length of rollouts; source is {self.source!r}")
        least = horizon + (new_frames(self.student, horizon) if self.long == "streaming" else 0)
        if self.long == "windows":
            spec.chunks(self.long_frames)
        if self.long_frames < least:
            raise ValueError(
                f"long_frames {self.long_frames} is below {least}, the horizon"
                + (" and what a stream goes on by" if self.long == "streaming" else "")
                + ": make it longer"
            )

    def draw(self, iteration: int, purpose: str) -> Draw:
        """Of the rollout for `purpose`; ranks that would differ raise."""
        key = (self.seed, iteration, purpose)
        level = shared_integer(len(self.student.spec.timesteps), *key)
        uniform = shared_integer(THOUSAND, *key, "schedule") < THOUSAND * self.plain_share
        first, switch = 0, None
        if self.streams is not None:
            places = self.streams.turns()
        else:
            beyond = 0 if self.long_frames is None else self.long_frames - self.student.rollout_frames
            first = shared_integer(beyond // self.student.chunk_frames + 1, *key, "window") if beyond else 0
            places = range(1, (self.long_frames or 0) // self.student.chunk_frames)
        if shared_integer(THOUSAND, *key, "switch") < THOUSAND * self.switch_share:
            switch = places[shared_integer(len(places), *key, "switched at")]
        drawn = {"iteration": iteration, "exit level": level, "first chunk": first, "schedule": int(uniform)}
        length = {"rollout frames": self.student.rollout_frames, "switch": -1 if switch is None else switch}
        streamed = {} if self.streams is None else {"streamed frames": self.streams.frames}
        agree({**drawn, **length, **streamed}, self.student.device)
        return Draw(level, first, switch, uniform)

    def noise(self, part: Part, iteration: int, purpose: str) -> SampleNoise:
        return SampleNoise(self.seed, iteration, part.index, purpose, self.student.device)

    def sample(self, part: Part, iteration: int, purpose: str, grad: bool, record: bool = False) -> Sample:
        """What the scores look at.

        Args:
            purpose: of the iteration's rollouts, for randomness of its own.
            grad: with a graph.
            record: with what it takes to run its chunks again.
        """
        if self.source == "noised":
            if part.latents is None:
                raise ValueError("source 'noised' denoises real clips: give the stage data with latents, ShardData say")
            noise = self.noise(part, iteration, f"noised {purpose}")
            return noised(self.student, part.text, part.latents, noise, grad)
        draw, noise = self.draw(iteration, purpose), self.noise(part, iteration, f"rollout {purpose}")
        with torch.set_grad_enabled(grad):
            if self.streams is not None:
                return self.streams.sample(part, noise, draw, grad, record)
            made = rolled if self.long_frames is None else window
            return made(self.student, part, noise, draw, grad, record)
