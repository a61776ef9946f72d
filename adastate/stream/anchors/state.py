"""`state`: denoised anew with every chunk; its clean keys and values replace those of the old one (AdaState)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from adastate.stream.anchors.anchor import Anchor, AnchorChoices, Kept, keep_first, newest_frames

if TYPE_CHECKING:
    from adastate.stream.kv_frames import CachedFrames


def update(spec: AnchorChoices, anchor: CachedFrames | None, state: CachedFrames | None, grown: CachedFrames) -> Kept:
    if state is not None:
        anchor = _updated(spec.state_update_every, anchor, state)
    elif anchor is None and spec.state_init == "first_frame":
        anchor, grown = keep_first(spec, None, grown)
    return anchor, newest_frames(spec, grown)


def _updated(clocks: tuple[int, ...], old: CachedFrames | None, new: CachedFrames) -> CachedFrames:
    """The state after a chunk: frames whose clock does not strike keep their old keys and values."""
    if old is None or not clocks:
        return new
    chosen = [new if new.written[0] % clock == 0 else old for clock in clocks]
    kept = chosen[0].first(1)
    for i, frames in enumerate(chosen[1:], 1):
        kept = kept.append(frames.drop_first(i).first(1))
    return kept


def queries(spec: AnchorChoices, there: bool) -> int:
    return 0 if spec.state_init == "first_frame" and not there else spec.state_frames


def check(spec: AnchorChoices) -> None:
    clocks, frames = spec.state_update_every, spec.state_frames
    if clocks and (len(clocks) != frames or min(clocks) < 1):
        raise ValueError(
            f"state_update_every {list(clocks)} with a state of {frames} frames: give one number of chunks, at least "
            "1, for each frame of the state"
        )
    if spec.state_init == "first_frame" and frames > spec.frames_of(0):
        raise ValueError(f"the first chunk has {spec.frames_of(0)} frames, too few for a state of {frames}")


STATE = Anchor(
    update,
    lambda spec: f"state of {spec.state_frames}",
    check,
    takes=("state_update_every",),
    queries=queries,
)
