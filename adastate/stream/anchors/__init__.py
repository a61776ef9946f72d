"""Kinds of anchors, what a stream keeps beyond its window: one file each, and the table that names them.

`stream.anchor` takes a name of the table, or the dotted path of an Anchor of your own, which must be importable:
`--stream.anchor=my_module.MY_ANCHOR`.
"""

from __future__ import annotations

import difflib
import importlib

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
    if name in ANCHORS:
        return ANCHORS[name]
    module, _, attribute = name.rpartition(".")
    if not module:
        near = difflib.get_close_matches(name, ANCHORS, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]!r}?" if near else f"it takes {', '.join(ANCHORS)}, or the path of an Anchor"
        raise ValueError(f"stream cannot have anchor {name!r}; {hint}")
    try:
        found = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"there is no anchor {name} ({error})") from error
    if not isinstance(found, Anchor):
        raise ValueError(f"{name} is a {type(found).__name__} and no Anchor (adastate.stream.anchors)")
    return found
