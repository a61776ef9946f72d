"""`none`: nothing is kept beyond the window."""

from __future__ import annotations

from typing import TYPE_CHECKING

from adastate.stream.anchors.anchor import Anchor, AnchorChoices, Kept, newest_frames

if TYPE_CHECKING:
    from adastate.stream.kv_frames import CachedFrames


def update(spec: AnchorChoices, anchor: CachedFrames | None, state: CachedFrames | None, grown: CachedFrames) -> Kept:
    return None, newest_frames(spec, grown)


NONE = Anchor(update, lambda spec: "no anchor")
