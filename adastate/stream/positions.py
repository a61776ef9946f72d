"""What a pass sees and where it stands in time: from what is cached to RoPE indices, as pure functions of integers."""

from __future__ import annotations

from dataclasses import dataclass

from adastate.stream.spec import StreamSpec
from adastate.types import Positions


@dataclass(frozen=True)
class FramePositions:
    """What of the cache one pass sees, and the RoPE indices of all its keys and queries, in order.

    Attributes:
        anchor_frames: which frames of the cached anchor are in view, in the order in which they are read.
        anchor: their indices.
        past_frames: how many of the window's newest frames are in view.
        past: their indices.
        state, chunk: indices of the pass's own keys.
        query: indices of the chunk's queries, which stand elsewhere than its keys in one case only.
    """

    anchor_frames: tuple[int, ...]
    anchor: Positions
    past_frames: int
    past: Positions
    state: Positions
    chunk: Positions
    query: Positions


def layout(
    spec: StreamSpec,
    anchor: Positions,
    past: Positions,
    state_queries: int,
    start: int,
    frames: int,
    clean: bool = False,
    cut: int | None = None,
    recache: bool = False,
) -> FramePositions:
    """For a pass over `state_queries` state frames and `frames` content frames from stream index `start` on.

    Args:
        anchor, past: stream indices of the cached frames, oldest first (HIDDEN for a state or an average).
        clean: whether it is the clean pass.
        cut: slot of the content, far from the past, in the first chunk after a cut.
        recache: the content takes the places of past frames.
    """
    own = tuple(range(start, start + frames))
    if clean and spec.clean_pass_context == "recent":
        assert spec.attention_frames is not None
        seen = _last(past, spec.attention_frames - frames)
        kept = _last(anchor, spec.attention_frames - frames - len(seen))
        shown = tuple(range(len(anchor) - len(kept), len(anchor)))
        return FramePositions(shown, kept, len(seen), seen, (), own, own)
    if spec.anchor_kind.positions is not None:
        shown, places = spec.anchor_kind.positions(spec, len(anchor), len(past), start)
        return FramePositions(shown, places, len(past), past, (), own, own)
    every = tuple(range(len(anchor)))
    if spec.attention_frames is not None:
        past = _last(past, spec.attention_frames - len(anchor) - frames)
    if spec.position == "absolute":
        return FramePositions(every, anchor, len(past), past, (), own, own)
    if spec.position == "anchor_contiguous":
        end = past[0] if past else start
        return FramePositions(every, tuple(range(end - len(anchor), end)), len(past), past, (), own, own)
    return _slots(spec, every, len(past), state_queries, start, frames, cut, recache)


def _slots(
    spec: StreamSpec,
    anchor: tuple[int, ...],
    past: int,
    state_queries: int,
    start: int,
    frames: int,
    cut: int | None,
    recache: bool,
) -> FramePositions:
    # A slot is reserved for the state as soon as one is denoised; a static anchor takes its slots when it is there.
    reserved = max(len(anchor), state_queries, spec.anchor_frames if spec.warmup == "fixed" else 0)
    if spec.warmup == "fixed":
        assert spec.past_frames is not None
        end = reserved + spec.past_frames
        past_at = tuple(range(end - past, end))
        first = end - frames if recache else end
    else:
        first = reserved + past
        past_at = tuple(range(reserved, first))
    behind = first + frames if spec.state_position == "behind" else 0
    query = first
    if spec.query_position == "stream" and not recache:
        assert spec.window_frames is not None
        query = min(start, spec.window_frames - frames)
    if cut is not None:
        first = query = cut
    return FramePositions(
        anchor_frames=anchor,
        anchor=anchor,
        past_frames=past,
        past=past_at,
        state=tuple(range(behind, behind + state_queries)),
        chunk=tuple(range(first, first + frames)),
        query=tuple(range(query, query + frames)),
    )


def _last(values: Positions, n: int) -> Positions:
    return values[max(0, len(values) - max(0, n)) :]
