"""`pingpong`: the first frames, shown forwards and backwards in the places before the window (Rolling-Sink)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from adastate.stream.anchors.anchor import Anchor, AnchorChoices
from adastate.stream.anchors.static import update

if TYPE_CHECKING:
    from adastate.types import Positions


def positions(spec: AnchorChoices, kept: int, past: int, start: int) -> tuple[Positions, Positions]:
    """Index p shows frame p while it is in the anchor, and later frame p of the walk 0..n-1, n-1..0, 0..n-1, ..."""
    assert spec.past_frames is not None
    first = max(0, start - spec.past_frames - spec.pingpong_slots)
    places = tuple(range(first, max(first, start - past)))
    period = 2 * max(kept, 1)
    return tuple(min(p % period, period - 1 - p % period) for p in places), places


def check(spec: AnchorChoices) -> None:
    if spec.pingpong_slots < 1:
        raise ValueError(f"anchor 'pingpong' needs pingpong_slots, at least 1, got {spec.pingpong_slots}")
    if spec.position != "absolute" or spec.past_frames is None:
        raise ValueError(
            f"anchor 'pingpong' fills the places before the window: it needs position 'absolute' and past_frames, got "
            f"{spec.position!r} and {spec.past_frames}"
        )
    if spec.state_frames < spec.pingpong_slots:
        raise ValueError(
            f"pingpong_slots {spec.pingpong_slots} are more than the {spec.state_frames} frames kept in the anchor"
        )


def describe(spec: AnchorChoices) -> str:
    return f"first {spec.state_frames} forwards and backwards in {spec.pingpong_slots} places"


PINGPONG = Anchor(
    update,
    describe,
    check,
    takes=("pingpong_slots",),
    shown=lambda spec: spec.pingpong_slots,
    positions=positions,
    in_slab=False,
    renewable=False,
)
