"""Classes that a configuration names, and what their constructors take: by their sources where these tell it."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import typing
from typing import Any

from adastate.config.described import Unreadable, described, names_of, read_hints

ABSENT = (ImportError, AttributeError, ValueError)
"""What is raised where a path names no class."""


def constructor_parameters(cls: Any) -> list[str]:
    """Names that the constructor of `cls` takes; where it takes any others (**kwargs), those of the class above too."""
    found: dict[str, None] = {}
    for part in cls.__mro__:
        if "__init__" not in vars(part):
            continue
        parameters = inspect.signature(part.__init__).parameters.values()
        kinds = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
        found |= dict.fromkeys(p.name for p in parameters if p.kind not in kinds and p.name != "self")
        if all(p.kind != inspect.Parameter.VAR_KEYWORD for p in parameters):
            break
    return list(found)


def takes_any(cls: Any) -> bool:
    """Whether a constructor hands on words that no class above names, as loggers do to the package that they wrap."""
    own = [inspect.signature(part.__init__) for part in cls.__mro__ if "__init__" in vars(part) and part is not object]
    kinds = ([p.kind for p in signature.parameters.values()] for signature in own)
    return bool(own) and all(inspect.Parameter.VAR_KEYWORD in kind for kind in kinds)


def constructor_hints(cls: Any) -> dict[str, Any]:
    """Types of `constructor_parameters`, the class's own before those of the classes above."""
    found: dict[str, Any] = {}
    for part in reversed(cls.__mro__):
        if "__init__" in vars(part) and part is not object:
            made = "__dataclass_fields__" in vars(part) and names_of(part) is not None
            found |= field_hints(part) if made else function_hints(part.__init__)
    return found


def field_hints(cls: Any) -> dict[str, Any]:
    """Types of the fields of a dataclass."""
    if names_of(cls) is None:
        return typing.get_type_hints(cls)
    found: dict[str, Any] = {}
    for part in reversed(cls.__mro__):
        found |= read_hints(vars(part).get("__annotations__", {}), names_of(part))
    return found


def function_hints(function: Any) -> dict[str, Any]:
    """Types of the arguments of a function, and of what it returns."""
    names = function.__globals__ if inspect.isfunction(function) else {}
    read = type(names) is not dict  # of a class that was described
    return read_hints(function.__annotations__, names) if read else typing.get_type_hints(function)


def block_of(hint: Any) -> Any:
    """The dataclass that a type is, or is besides null; None for any other."""
    kinds = [kind for kind in (hint, *typing.get_args(hint)) if dataclasses.is_dataclass(kind)]
    return kinds[0] if kinds else None


def class_at(path: str) -> Any:
    """The class of a dotted path, from the project, what is installed, or the working directory.

    Raises:
        ImportError, AttributeError, ValueError: where there is none.
    """
    module, _, name = path.rpartition(".")
    return _a_class(path, getattr(importlib.import_module(module), name))


def described_class(path: str) -> Any:
    """The class as its source describes it, or the class itself where that does not tell; raises as `class_at`."""
    try:
        return _a_class(path, described(path))
    except Unreadable:
        return class_at(path)


def derives(path: str, above: str) -> bool:
    """Whether the class at one path derives from that at another."""
    try:
        try:
            return issubclass(described(path), described(above))
        except Unreadable:
            return issubclass(class_at(path), class_at(above))
    except (*ABSENT, TypeError):
        return False


def _a_class(path: str, found: Any) -> Any:
    if not inspect.isclass(found):
        raise ValueError(f"{path} is something else")
    return found
