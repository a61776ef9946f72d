"""What makes a kind of anchor, and the two steps that most of them share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:  # as in the files of the anchors: a configuration is checked before anything imports torch
    from adastate.stream.kv_frames import CachedFrames
    from adastate.types import Positions

Kept = tuple["CachedFrames | None", "CachedFrames"]
"""(anchor, window). A frame is in one of them only."""


class AnchorChoices(Protocol):
    """The fields of a StreamSpec (see there) that anchors read."""

    @property
    def chunk_frames(self) -> int: ...
    @property
    def past_frames(self) -> int | None: ...
    @property
    def anchor(self) -> str: ...
    @property
    def state_frames(self) -> int: ...
    @property
    def decay(self) -> tuple[float, ...]: ...
    @property
    def pool(self) -> str: ...
    @property
    def pingpong_slots(self) -> int: ...
    @property
    def position(self) -> str: ...
    @property
    def state_init(self) -> str: ...
    @property
    def state_update_every(self) -> tuple[int, ...]: ...
    def frames_of(self, chunk: int, /) -> int: ...


def _anything(spec: AnchorChoices) -> None:
    """Accepts all choices."""


def _state_frames(spec: AnchorChoices) -> int:
    return spec.state_frames


@dataclass(frozen=True)
class Anchor:
    """A kind of anchor, as functions of a stream's choices and of cached frames.

    Attributes:
        update: (choices, anchor, state, grown) -> (anchor, window), after each commit. `anchor` is the present one,
            None at first; `state` is what the clean pass wrote for the state queries, None where there were none;
            `grown` is the past with the new chunk appended, from which nothing has left yet.
        describe: the anchor in a few words, with the numbers of these choices.
        check: raises ValueError for choices that do not go with it.
        takes: names of fields of StreamSpec that are this anchor's own; spec.OWN lists those that all others refuse.
        queries: (choices, whether an anchor is there) -> state frames to be denoised with the next chunk. None: the
            anchor is never denoised.
        frames: latent frames when it is complete.
        shown: latent frames of it in view at a time.
        positions: (choices, frames in the anchor, frames in the window, index of the chunk's first frame) -> (which
            of its frames are in view, in that order, and their RoPE indices). None: all, where `position` has them.
        computed: its keys are computed from those of other frames, so raw keys are needed.
        in_slab: a frame is in view at most once at a time, so a stream without gradient can have it in a Slab.
        renewable: it can be encoded again, or dropped, when the prompt changes.
    """

    update: Callable[[AnchorChoices, CachedFrames | None, CachedFrames | None, CachedFrames], Kept]
    describe: Callable[[AnchorChoices], str]
    check: Callable[[AnchorChoices], None] = _anything
    takes: tuple[str, ...] = ()
    queries: Callable[[AnchorChoices, bool], int] | None = None
    frames: Callable[[AnchorChoices], int] = _state_frames
    shown: Callable[[AnchorChoices], int] = _state_frames
    positions: Callable[[AnchorChoices, int, int, int], tuple[Positions, Positions]] | None = None
    computed: bool = False
    in_slab: bool = True
    renewable: bool = True


def keep_first(
    spec: AnchorChoices, anchor: CachedFrames | None, grown: CachedFrames
) -> tuple[CachedFrames, CachedFrames]:
    """(anchor, rest): the first `state_frames` frames of the stream become the anchor and leave the window.

    Where a block is shorter than the anchor, the following ones go on filling it.
    """
    if anchor is None:
        return grown.first(spec.state_frames), grown.drop_first(spec.state_frames)
    missing = max(0, spec.state_frames - anchor.count)
    return (anchor.append(grown.first(missing)), grown.drop_first(missing)) if missing else (anchor, grown)


def leaving(spec: AnchorChoices, grown: CachedFrames) -> CachedFrames | None:
    """The frames that leave the window now; None if none do."""
    past = spec.past_frames
    return None if past is None or grown.count <= past else grown.drop_last(past)


def newest_frames(spec: AnchorChoices, grown: CachedFrames) -> CachedFrames:
    """The frames that stay in the window."""
    past = spec.past_frames
    return grown if past is None or grown.count <= past else grown.last(past)
