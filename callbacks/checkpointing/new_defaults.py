"""Defaults of arguments that a configuration of an earlier version does not contain."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import typing
from collections.abc import Iterator
from typing import Any

TRAINER = "lightning.pytorch.Trainer"


def defaults_of(config: Any) -> dict[str, Any]:
    """Arguments (dotted keys without `init_args`) that the classes of a stored configuration take but it does not set,
    with their defaults as written in a file; classes that cannot be imported are skipped."""
    trainer = {"class_path": TRAINER, "init_args": config.get("trainer") or {}}
    return dict(_missing({**config, "trainer": trainer}, ""))


def _missing(node: Any, key: str) -> Iterator[tuple[str, Any]]:
    if isinstance(node, dict) and isinstance(node.get("class_path"), str):
        cls = _class(node["class_path"])
        if cls is not None:
            yield from _of_class(cls, node.get("init_args") or {}, key)
        node = node.get("init_args") or {}
    if isinstance(node, dict):
        for name, value in node.items():
            yield from _missing(value, f"{key}.{name}".lstrip("."))


def _of_class(cls: type, given: dict[str, Any], key: str) -> Iterator[tuple[str, Any]]:
    for parameter in inspect.signature(cls).parameters.values():
        path = f"{key}.{parameter.name}".lstrip(".")
        kind = _dataclass(cls, parameter.name)
        if parameter.name in given:
            if kind is not None and isinstance(given[parameter.name], dict):
                yield from _of_fields(kind, given[parameter.name], path)
        elif parameter.default is not inspect.Parameter.empty:
            yield from _leaves(parameter.default, path)


def _of_fields(kind: Any, given: dict[str, Any], key: str) -> Iterator[tuple[str, Any]]:
    for field in dataclasses.fields(kind):
        if field.name in given:
            continue
        if field.default is not dataclasses.MISSING:
            yield from _leaves(field.default, f"{key}.{field.name}")
        elif field.default_factory is not dataclasses.MISSING:
            yield from _leaves(field.default_factory(), f"{key}.{field.name}")


def _leaves(value: Any, key: str) -> Iterator[tuple[str, Any]]:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        for field in dataclasses.fields(value):
            yield from _leaves(getattr(value, field.name), f"{key}.{field.name}")
    else:
        yield key, list(value) if isinstance(value, tuple) else value


def _dataclass(cls: Any, name: str) -> Any:
    """The dataclass in an argument's type; None if it has none."""
    try:
        hint = typing.get_type_hints(cls.__init__).get(name)
    except (NameError, TypeError):
        return None
    kinds = [hint, *typing.get_args(hint)]
    return next((kind for kind in kinds if isinstance(kind, type) and dataclasses.is_dataclass(kind)), None)


def _class(path: str) -> Any:
    module, _, name = path.rpartition(".")
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError):
        return None
    return found if isinstance(found, type) else None
