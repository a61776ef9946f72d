"""Kinds of anchors, what a stream keeps beyond its window: one file each, and the table that names them.

`stream.anchor` takes a name of the table, or the dotted path of an Anchor of your own, which must be importable:
`--stream.anchor=my_module.MY_ANCHOR`.
"""

from __future__ import annotations

from adastate.runtime.named import named
from adastate.stream.anchors.anchor import Anchor
from adastate.stream.anchors.dual_ema import DUAL_EMA
from adastate.stream.anchors.none import NONE
from adastate.stream.anchors.pingpong import PINGPONG
from adastate.stream.anchors.single_ema import SINGLE_EMA
from adastate.stream.anchors.state import STATE
from adastate.stream.anchors.static import STATIC

ANCHORS: dict[str, Anchor] = {
    "none": NONE,
    "static": STATIC,
    "ema": SINGLE_EMA,
    "dual_ema": DUAL_EMA,
    "pingpong": PINGPONG,
    "state": STATE,
}


def anchor_named(name: str) -> Anchor:
    """The anchor of a name of `ANCHORS` or of a dotted path.

    Raises:
        ValueError: there is none.
    """
    return named(name, ANCHORS, "stream cannot have anchor", "Anchor", lambda found: isinstance(found, Anchor))
