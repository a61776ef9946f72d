"""Variables of the environment in a configuration: used where it runs, kept as `${oc.env:NAME}` where it is saved."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from omegaconf.resolvers import oc

from adastate.config.schema import Path_
from adastate.runtime import secrets

_OPEN, _CLOSE = "\ue000", "\ue001"
"""Stand for ${ and } while the rest of a text is resolved: characters that nobody uses."""

_ABSENT = object()
_NAMED = re.compile(r"\$\{oc\.env:\s*(\w+)")


def unresolved(written: Any, resolved: Any) -> dict[Path_, str]:
    """Path -> text with its `${oc.env:...}`, of every value of `resolved` that the environment has a part in.

    From here on the values of those variables are shown nowhere.

    Args:
        written: the configuration before it was resolved.
        resolved: afterwards.
    """
    if "oc.env" not in str(written):
        return {}
    with _names_only():
        named = dict(_leaves(OmegaConf.to_container(OmegaConf.create(written), resolve=True)))
    kept = {
        path: text.replace(_OPEN, "${").replace(_CLOSE, "}")
        for path, text in named.items()
        if isinstance(text, str) and _OPEN in text
    }
    for name in {name for text in kept.values() for name in _NAMED.findall(text)}:
        secrets.register(os.environ.get(name, ""), f"${{oc.env:{name}}}")
    return {path: text for path, text in kept.items() if path in dict(_leaves(resolved))}


def with_texts_again(config: Any, kept: Mapping[Path_, str]) -> Any:
    """`config`, as Lightning dumps it, with the texts of `unresolved` in it again, and without other secrets."""

    def change(node: Any, path: Path_) -> Any:
        if path in kept:
            return kept[path]
        if isinstance(node, dict):
            return {name: change(value, (*path, str(name))) for name, value in node.items()}
        if isinstance(node, list):
            return [change(value, (*path, str(i))) for i, value in enumerate(node)]
        return node

    return secrets.without_secrets(change(config, ()))


def with_set_variables(config: Any) -> Any:
    """A saved configuration with the variables that are set; what needs another one keeps its text."""
    if isinstance(config, dict):
        return {name: with_set_variables(value) for name, value in config.items()}
    if isinstance(config, list):
        return [with_set_variables(value) for value in config]
    if not isinstance(config, str) or not (names := _NAMED.findall(config)):
        return config
    try:
        found = OmegaConf.to_container(OmegaConf.create({"it": config}), resolve=True)
    except OmegaConfBaseException:
        return config
    for name in names:
        secrets.register(os.environ.get(name, ""), f"${{oc.env:{name}}}")
    assert isinstance(found, dict)
    return found["it"]


@contextmanager
def _names_only() -> Iterator[None]:
    def env(name: str, default: Any = _ABSENT) -> str:
        told = "" if default is _ABSENT else f",{'null' if default is None else default}"
        return f"{_OPEN}oc.env:{name}{told}{_CLOSE}"

    def decode(text: Any, _parent_: Any, _node_: Any) -> Any:
        return f"{_OPEN}oc.decode:{text}{_CLOSE}" if _OPEN in str(text) else oc.decode(text, _parent_, _node_)

    OmegaConf.register_resolver("oc.env", env, replace=True)
    OmegaConf.register_resolver("oc.decode", decode, replace=True)
    try:
        yield
    finally:
        OmegaConf.register_resolver("oc.env", oc.env, replace=True)
        OmegaConf.register_resolver("oc.decode", oc.decode, replace=True)


def _leaves(node: Any, path: Path_ = ()) -> Iterator[tuple[Path_, Any]]:
    items = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for name, value in items:
        yield from _leaves(value, (*path, str(name)))
    if not isinstance(node, (dict, list)):
        yield path, node
