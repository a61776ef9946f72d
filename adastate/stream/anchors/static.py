"""`static`: the stream's first frames, written once; an attention sink."""

from __future__ import annotations

from typing import TYPE_CHECKING

from adastate.stream.anchors.anchor import Anchor, AnchorChoices, Kept, keep_first, newest_frames

if TYPE_CHECKING:
    from adastate.stream.kv_frames import CachedFrames


def update(spec: AnchorChoices, anchor: CachedFrames | None, state: CachedFrames | None, grown: CachedFrames) -> Kept:
    anchor, rest = keep_first(spec, anchor, grown)
    return anchor, newest_frames(spec, rest)


STATIC = Anchor(update, lambda spec: f"first {spec.state_frames} kept")
