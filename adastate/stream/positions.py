"""Where frames stand in time: from what is cached to RoPE indices, as pure functions of host integers."""

from __future__ import annotations

from dataclasses import dataclass

from adastate.stream.spec import StreamSpec
from adastate.types import Positions


@dataclass(frozen=True)
class Layout:
    """RoPE indices of everything that one pass sees, in the order of its keys."""

    anchor: Positions
    past: Positions
    state: Positions
    chunk: Positions


def layout(spec: StreamSpec, anchor: Positions, past: Positions, state_queries: int, start: int, frames: int) -> Layout:
    """Positions for a pass over `state_queries` state frames and `frames` chunk frames from stream index `start` on.

    `anchor` and `past` are the stream indices of the cached frames, oldest first (-1 for a hidden state).
    """
    if spec.position == "absolute":
        return Layout(anchor, past, (), tuple(range(start, start + frames)))
    # A slot is reserved for the state as soon as one is denoised; a static anchor takes its slots when it is there.
    reserved = max(len(anchor), state_queries, spec.state_frames if spec.warmup == "fixed" else 0)
    if spec.warmup == "fixed":
        assert spec.past_frames is not None
        first = reserved + spec.past_frames
        past_at = tuple(range(first - len(past), first))
    else:
        first = reserved + len(past)
        past_at = tuple(range(reserved, first))
    behind = first + frames if spec.state_position == "behind" else 0
    return Layout(
        anchor=tuple(range(len(anchor))),
        past=past_at,
        state=tuple(range(behind, behind + state_queries)),
        chunk=tuple(range(first, first + frames)),
    )
