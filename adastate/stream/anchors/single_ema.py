"""`ema`: the stream's first frames, which then move towards the frames that leave the window (Reward-Forcing).

They take in what leaves with a commit, so the first pass of the next chunk sees it already.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from adastate.stream.anchors.anchor import Anchor, AnchorChoices, Kept, keep_first, leaving, newest_frames
from adastate.stream.anchors.averages import blended, check_decay, described_decay, pooled

if TYPE_CHECKING:
    from adastate.stream.kv_frames import CachedFrames


def update(spec: AnchorChoices, anchor: CachedFrames | None, state: CachedFrames | None, grown: CachedFrames) -> Kept:
    anchor, rest = keep_first(spec, anchor, grown)
    evicted = leaving(spec, rest)
    for block in _blocks(evicted, spec.chunk_frames) if evicted is not None else ():
        anchor = blended(anchor, pooled(block, spec.pool, anchor.count), spec.decay[0])
    return anchor, newest_frames(spec, rest)


def _blocks(evicted: CachedFrames, size: int) -> list[CachedFrames]:
    if evicted.count % size:
        raise ValueError(
            f"anchor 'ema' takes in whole chunks of {size} frames, but {evicted.count} leave the window: give first "
            "frames in whole chunks"
        )
    return [evicted.drop_first(i).first(size) for i in range(0, evicted.count, size)]


def check(spec: AnchorChoices) -> None:
    check_decay(spec, 1)
    if spec.past_frames is None or spec.past_frames % spec.chunk_frames:
        raise ValueError(
            f"anchor 'ema' takes in whole chunks: past_frames {spec.past_frames} has to be a multiple of "
            f"chunk_frames {spec.chunk_frames}"
        )
    if spec.pool == "token" and spec.state_frames != spec.chunk_frames:
        raise ValueError(
            f"anchor 'ema' with pool 'token' averages frame by frame: state_frames {spec.state_frames} has to equal "
            f"chunk_frames {spec.chunk_frames}, or use pool 'mean'"
        )


def describe(spec: AnchorChoices) -> str:
    return f"moving average of {spec.state_frames}, {described_decay(spec)}"


SINGLE_EMA = Anchor(update, describe, check, takes=("decay",), computed=True)
