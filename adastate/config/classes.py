"""Classes that a configuration names, and what their constructors take."""

from __future__ import annotations

import importlib
import inspect
import typing
from typing import Any


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


def constructor_hints(cls: Any) -> dict[str, Any]:
    """Types of `constructor_parameters`, the class's own before those of the classes above."""
    found: dict[str, Any] = {}
    for part in reversed(cls.__mro__):
        if "__init__" in vars(part) and part is not object:
            found |= typing.get_type_hints(part.__init__)
    return found


def class_at(path: str) -> Any:
    """The class of a dotted path, from the project, what is installed, or the working directory.

    Raises:
        ImportError, AttributeError, ValueError: where there is none.
    """
    module, _, name = path.rpartition(".")
    found = getattr(importlib.import_module(module), name)
    if not inspect.isclass(found):
        raise ValueError(f"{path} is something else")
    return found
