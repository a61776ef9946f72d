"""How many latent frames and pictures a stream of so many seconds has, and when each of them is shown."""

from __future__ import annotations

import math
from numbers import Real

from adastate.encoders import Codec
from adastate.stream import StreamSpec


def span(codec: Codec, before: int, frames: int) -> int:
    """Pictures of `frames` latent frames that follow `before` others."""
    return (codec.video_frames(before + frames) if before + frames else 0) - (
        codec.video_frames(before) if before else 0
    )


def frames_for(seconds: float, codec: Codec, spec: StreamSpec, given: int = 0) -> int:
    """Latent frames, whole chunks, that make at least so many seconds after `given` others."""
    if not isinstance(seconds, Real) or not 0 < seconds < math.inf:
        raise ValueError(f"{seconds!r} seconds is not a length; give --seconds above 0")
    frames, chunk = spec.frames_of(0), spec.chunk_frames
    while (have := span(codec, given, frames)) < seconds * codec.fps:
        per_chunk = span(codec, given + frames, chunk)
        frames += chunk * max(1, math.floor((seconds * codec.fps - have) / per_chunk))
    return frames


def frame_starts(frames: int, codec: Codec, given: int = 0) -> list[float]:
    """Second at which each of `frames` latent frames begins, counted from the first generated picture."""
    return [span(codec, given, before) / codec.fps for before in range(frames)]


def chunk_starts(frames: int, codec: Codec, spec: StreamSpec, given: int = 0) -> list[float]:
    """Second at which each chunk of a stream begins, counted from its first generated picture."""
    before = [0, *range(spec.frames_of(0), frames, spec.chunk_frames)]
    return [span(codec, given, b) / codec.fps for b in before]
