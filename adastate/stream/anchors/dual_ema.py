"""`dual_ema`: static, plus two moving averages of one frame each, a long and a short one (MemRoPE)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from adastate.stream.anchors.anchor import Anchor, AnchorChoices, Kept, keep_first, leaving, newest_frames
from adastate.stream.anchors.averages import blended, check_decay, described_decay, pooled

if TYPE_CHECKING:
    from adastate.stream.kv_frames import CachedFrames

AVERAGES = 2


def update(spec: AnchorChoices, anchor: CachedFrames | None, state: CachedFrames | None, grown: CachedFrames) -> Kept:
    anchor, rest = keep_first(spec, anchor, grown)
    evicted = leaving(spec, rest)
    if evicted is None:
        return anchor, rest
    if anchor.count == spec.state_frames:  # the averages' places hold the oldest past frames until something leaves
        if evicted.count <= AVERAGES:
            return anchor, rest
        average = pooled(evicted.drop_first(AVERAGES), spec.pool, 1)
        return anchor.append(average).append(average), newest_frames(spec, rest)
    taken = pooled(evicted, spec.pool, 1)
    static, long, short = anchor.first(spec.state_frames), anchor.last(2).first(1), anchor.last(1)
    averages = blended(long, taken, spec.decay[0]), blended(short, taken, spec.decay[1])
    return static.append(averages[0]).append(averages[1]), newest_frames(spec, rest)


def check(spec: AnchorChoices) -> None:
    check_decay(spec, AVERAGES)
    if spec.past_frames is None:
        raise ValueError("anchor 'dual_ema' averages what leaves the window: set past_frames")


def frames(spec: AnchorChoices) -> int:
    return spec.state_frames + AVERAGES


def describe(spec: AnchorChoices) -> str:
    return f"first {spec.state_frames} and two averages, {described_decay(spec)}"


DUAL_EMA = Anchor(update, describe, check, takes=("decay",), frames=frames, shown=frames, computed=True)
