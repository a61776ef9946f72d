"""Shapes and dtypes that annotations promise, held to while the tests run; conftest installs it before all else.

A check takes as long as a layer of a tiny network, and streams make the same call thousands of times over. So a
function is checked once for every combination of shapes and dtypes that it is given in a process.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import is_dataclass
from functools import cache, partial, wraps
from inspect import isfunction
from typing import Any

import jaxtyping
import torch
from beartype import BeartypeConf, beartype

ANNOTATED = (
    "adastate.types",
    "adastate.diffusion",
    "adastate.media.video",
    "adastate.metrics",
    "adastate.models.actions",
    "adastate.models.activation",
    "adastate.models.attention",
    "adastate.models.modulation",
    "adastate.models.norm",
    "adastate.models.rope",
    "adastate.training.rewards",
)
"""Modules, and folders of them, whose public functions name the axes of their tensors."""

checker = beartype(conf=BeartypeConf(is_pep484_tower=True))  # an integer does where a float is asked for
_jaxtyped = jaxtyping.jaxtyped


def install() -> None:
    """From here on those modules are checked as they are imported, in this process alone."""
    jaxtyping.jaxtyped = once  # type: ignore[assignment]  # with which the hook decorates whatever it finds
    jaxtyping.install_import_hook(ANNOTATED, f"{__name__}.checker")


def once(thing: Any = None, *, typechecker: Any) -> Any:
    """`jaxtyped` for what is public and takes or gives tensors, functions and dataclasses; all else stays as it is."""
    if thing is None:
        return partial(once, typechecker=typechecker)
    if any(n == "<locals>" or (n.startswith("_") and not n.endswith("__")) for n in thing.__qualname__.split(".")):
        return thing
    if isfunction(thing):
        return _gated(thing, typechecker)
    if is_dataclass(thing):
        thing.__init__ = _gated(thing.__init__, typechecker)  # type: ignore[misc, method-assign]
    return thing


def _gated(function: Callable[..., Any], typechecker: Any) -> Callable[..., Any]:
    annotations = str(function.__annotations__)
    if "Tensor" not in annotations:
        return function
    held = cache(lambda: _jaxtyped(function, typechecker=typechecker))  # when it is called first: it takes a while
    seen: set[tuple[Any, ...]] = set()
    numbers = int if "{" in annotations.strip("{}") else ()  # some sizes are arguments

    @wraps(function)
    def gate(*args: Any, **kwargs: Any) -> Any:
        if torch.compiler.is_compiling():  # torch cannot trace a checker, and needs no program for one
            return function(*args, **kwargs)
        given = (*args, *kwargs.values()) if kwargs else args
        forms = [
            (x.shape, x.dtype) if isinstance(x, torch.Tensor) else x if isinstance(x, numbers) else type(x)
            for x in given
        ]
        key = (*forms, *kwargs)
        if key in seen:
            return function(*args, **kwargs)
        out = held()(*args, **kwargs)
        if list not in forms and dict not in forms:  # which may hold anything
            seen.add(key)
        return out

    return gate
