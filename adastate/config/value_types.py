"""Whether a value of a configuration fits the type of the argument that it is for, and what would, in words."""

from __future__ import annotations

import collections.abc
import contextlib
import dataclasses
import inspect
import types
import typing
from pathlib import Path
from typing import Any

from adastate.config.described import classes_beside
from adastate.runtime import spelling

SEQUENCES = (
    list,
    tuple,
    set,
    collections.abc.Sequence,
    collections.abc.Iterable,
    collections.abc.Collection,
)


def fits(value: Any, hint: Any) -> bool:
    """Whether `value`, as YAML gives it, is of a type; of one that is not known here it is taken to be."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if hint in (None, types.NoneType):
        return value is None
    if origin in (typing.Union, types.UnionType):
        return any(fits(value, kind) for kind in arguments)
    if origin is typing.Literal:
        return any(value == word and type(value) is type(word) for word in arguments)
    if hint is bool:
        return isinstance(value, bool)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if hint is float:
        return is_number(value)
    if hint in (str, Path):
        return isinstance(value, str)
    if (origin or hint) in SEQUENCES:
        return isinstance(value, list | tuple) and _fit_each(list(value), origin, arguments)
    if origin is not None or not inspect.isclass(hint) or hint in (object, dict, type):
        return True
    if isinstance(value, str):  # the class itself, by its path or by the name of one that is known
        return "." in value or value in classes_beside(hint)
    return isinstance(value, dict) or (isinstance(value, list) and dataclasses.is_dataclass(hint))


def is_text(hint: Any) -> bool:
    """Whether a type is text, or text or nothing, or a sequence of such; a number as well makes it none."""
    if hint in (str, Path):
        return True
    kinds = [kind for kind in typing.get_args(hint) if kind not in (types.NoneType, ...)]
    if typing.get_origin(hint) is typing.Literal:
        return all(isinstance(kind, str) for kind in kinds)
    return bool(kinds) and all(is_text(kind) for kind in kinds)


def asked_for(hint: Any) -> str:
    """What fits, in words: "a whole number or null"."""
    kinds = [k for k in _kinds(hint) if k is not types.NoneType]
    words = [w for kind in kinds if typing.get_origin(kind) is typing.Literal for w in typing.get_args(kind)]
    others = [_in_words(kind) for kind in kinds if typing.get_origin(kind) is not typing.Literal]
    every = [*dict.fromkeys(others), *map(str, words), *(["null"] if types.NoneType in _kinds(hint) else [])]
    return every[0] if len(every) == 1 else f"{', '.join(every[:-1])} or {every[-1]}"


def nearest_word(value: Any, hint: Any) -> str:
    """The word that may have been meant; empty if none is near."""
    words = [w for kind in _kinds(hint) for w in typing.get_args(kind) if isinstance(w, str)]
    return spelling.likeliest_word(value, words)


def _kinds(hint: Any) -> list[Any]:
    """The types of a union, unions within it spread out; any other type alone."""
    if typing.get_origin(hint) not in (typing.Union, types.UnionType):
        return [types.NoneType if hint is None else hint]
    return [kind for part in typing.get_args(hint) for kind in _kinds(part)]


def is_number(value: Any) -> bool:
    """Whether it is a number, or text that YAML takes for a word and Python for a number."""
    if isinstance(value, str):
        with contextlib.suppress(ValueError):
            float(value)  # as 1e-4, which YAML takes for a word
            return True
    return isinstance(value, int | float) and not isinstance(value, bool)


def _fit_each(values: list[Any], origin: Any, arguments: tuple[Any, ...]) -> bool:
    if origin is tuple and arguments and arguments[-1] is not ...:
        return len(values) == len(arguments) and all(map(fits, values, arguments))
    return all(fits(value, arguments[0]) for value in values) if arguments else True


def _in_words(kind: Any) -> str:
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    plain = {bool: "true, false", int: "a whole number", float: "a number", str: "text", Path: "a path"}
    if kind in plain:
        return plain[kind]
    if origin is tuple and arguments and arguments[-1] is not ...:
        return f"a list of {len(arguments)}"
    if (origin or kind) in SEQUENCES:
        return f"a list ({asked_for(arguments[0])} each)" if arguments else "a list"
    if inspect.isclass(kind):
        return f"the class_path of a {kind.__name__}"
    return str(kind)
