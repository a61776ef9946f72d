"""Choices by name: of a table, or of the user's own module."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from typing import TypeVar, cast

from adastate.runtime.spelling import meant

T = TypeVar("T")


def named(name: str, table: Mapping[str, T], refusal: str, kind: str, fits: Callable[[object], bool]) -> T:
    """What `table` has under `name`, or what stands at a dotted path, if it `fits`.

    Args:
        refusal: how a sentence about a wrong name begins: "stream cannot have anchor".
        kind: the class that is wanted, for the same sentences.

    Raises:
        ValueError: there is none.
    """
    if name in table:
        return table[name]
    module, _, attribute = name.rpartition(".")
    if not module:
        every = f"it takes {', '.join(table)}, or the path of your own {kind}"
        raise ValueError(f"{refusal} {name!r}; {meant(name, table, every)}")
    try:
        found = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"{refusal} {name!r}: there is no such {kind} ({error})") from error
    if not fits(found):
        raise ValueError(f"{refusal} {name!r}, which is a {type(found).__name__} and no {kind}")
    return cast(T, found)
