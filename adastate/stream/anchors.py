"""What the cache keeps beyond the window, as pure functions of cached frames."""

from __future__ import annotations

from adastate.stream.frames import Frames
from adastate.stream.spec import StreamSpec


def renew(
    spec: StreamSpec, anchor: Frames | None, state: Frames | None, window: Frames
) -> tuple[Frames | None, Frames]:
    """The anchor after a commit, and the window without what went into it.

    `state` is what the clean pass wrote for the state queries, None where there were none; `window` the past with
    the new chunk appended, nothing evicted yet. A frame stands in one place only: what becomes the anchor leaves
    the window.
    """
    if spec.anchor == "none":
        return None, window
    if state is not None:
        return state, window
    if anchor is None and (spec.anchor == "static" or spec.state_init == "first_frame"):
        return window.first(spec.state_frames), window.drop_first(spec.state_frames)
    if spec.anchor == "static" and anchor is not None and anchor.count < spec.state_frames:
        # the first block was shorter than the anchor (an independent first frame): go on filling it
        missing = spec.state_frames - anchor.count
        return anchor.append(window.first(missing)), window.drop_first(missing)
    return anchor, window
