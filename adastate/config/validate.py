"""Checks keys and values of a configuration against the constructors that they are for."""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import importlib
import inspect
import types
import typing
from collections.abc import Sequence
from typing import Any

import lightning.pytorch as pl

from adastate.config.schema import FLAGS, LIGHTNING, VARIABLES, Config, ConfigError, Lines, Path_


def check_words(config: Config, words: Sequence[str]) -> None:
    """Refuses words for Lightning ("--model.horizon_weight=4") that name what is not there, nearest neighbour told.

    Raises:
        ConfigError: for the first of them.
    """
    for word in (w for w in words if w.startswith("--")):
        head, *path = word.partition("=")[0].removeprefix("--").rstrip("+").split(".")
        if head == "trainer" and path and path[0] != "help":
            _near(word, "the trainer", path[0], constructor_parameters(pl.Trainer))
        elif head not in (*LIGHTNING, *VARIABLES, *FLAGS):
            _near(word, "`adastate fit`", head, (*LIGHTNING, *VARIABLES, *FLAGS))
        node = config.lightning.get(head)
        if head not in ("model", "data") or {"class_path", "help"} & set(path):
            continue
        for part in (p for p in path if p != "init_args"):
            if not isinstance(node, dict):
                break
            if "class_path" in node:
                _near(word, node["class_path"], part, constructor_parameters(class_at(node["class_path"])))
                node = node.get("init_args") or {}
            node = node.get(part)


def _near(word: str, what: str, key: str, known: Sequence[str]) -> None:
    if key not in known:
        near = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
        raise ConfigError(
            f"{word}: {what} has no {key!r}; "
            + (f"did you mean {near[0]!r}?" if near else f"known are {', '.join(known)}")
        )


def check_class(node: Any, path: Path_, lines: Lines) -> None:
    """Checks `init_args` of a {class_path, init_args} node, and of those within it."""
    if not isinstance(node, dict):
        return
    if "class_path" not in node:
        for key, value in node.items():
            check_class(value, (*path, key), lines)
        return
    where = node["class_path"]
    try:
        cls = class_at(where)
    except (ImportError, AttributeError, ValueError) as error:
        at = lines.get((*path, "class_path"), ".".join(path))
        raise ConfigError(f"{at}: there is no class {where} ({error})") from error
    arguments = node.get("init_args") or {}
    check_names(where, arguments, constructor_parameters(cls), (*path, "init_args"), lines)
    hints = constructor_hints(cls)
    for key, value in arguments.items():
        hint = hints.get(key)
        _check_value(where, value, hint, (*path, "init_args", key), lines)
        if dataclasses.is_dataclass(hint) and isinstance(value, dict):
            check_names(key, value, [f.name for f in dataclasses.fields(hint)], (*path, "init_args", key), lines)
        else:
            check_class(value, (*path, "init_args", key), lines)


def check_block(name: str, block: Any, lines: Lines) -> None:
    from adastate.models.wan import Size
    from adastate.stream import StreamSpec
    from adastate.stream.anchors import anchor_named

    kinds: dict[str, Any] = {"size": Size, "teacher_size": Size, "critic_size": Size, "stream": StreamSpec}
    if name in kinds and isinstance(block, dict):
        check_names(name, block, [f.name for f in dataclasses.fields(kinds[name])], (name,), lines)
        for key, value in block.items():
            _check_value(name, value, typing.get_type_hints(kinds[name])[key], (name, key), lines)
        if name == "stream" and "anchor" in block:
            try:
                anchor_named(str(block["anchor"]))
            except ValueError as error:
                raise ConfigError(f"{lines.get((name, 'anchor'), 'stream.anchor')}: {error}") from error
    elif isinstance(block, dict):
        check_class(block, (name,), lines)


def check_values(name: str, block: Any, known: Any, path: Path_, lines: Lines) -> None:
    """Checks the keys of a block of values against those of the schema.

    Raises:
        ConfigError: for one that is not there, with the nearest that is.
    """
    if not isinstance(known, dict) or block is None or str(block).startswith("${"):
        return
    if not isinstance(block, dict):
        at = lines.get(path, ".".join(path))
        raise ConfigError(f"{at}: {name} has keys of its own ({', '.join(known)}), and no value")
    check_names(name, block, list(known), path, lines)
    for key, value in block.items():
        check_values(f"{name}.{key}", value, known[key], (*path, key), lines)


def check_names(what: str, given: dict[str, Any], known: Sequence[str], path: Path_, lines: Lines) -> None:
    for key in given:
        if key not in known:
            near = difflib.get_close_matches(str(key), known, n=1, cutoff=0.5)
            hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(known)}"
            at = lines.get((*path, str(key)), ".".join((*path, str(key))))
            raise ConfigError(f"{at}: {what} has no {key!r}; {hint}")


def _check_value(what: str, value: Any, hint: Any, path: Path_, lines: Lines) -> None:
    """Refuses a word where a number or one of certain words belongs; all else is left to jsonargparse."""
    kinds = typing.get_args(hint) if typing.get_origin(hint) in (typing.Union, types.UnionType) else (hint,)
    words = [w for kind in kinds if typing.get_origin(kind) is typing.Literal for w in typing.get_args(kind)]
    numbers = [kind for kind in kinds if kind in (int, float)]
    known = len(numbers) + (types.NoneType in kinds) + sum(typing.get_origin(k) is typing.Literal for k in kinds)
    if not isinstance(value, str) or known != len(kinds) or value in words:
        return
    if numbers:
        with contextlib.suppress(ValueError):
            float(value)  # as 1e-4, which YAML takes for a word
            return
    near = difflib.get_close_matches(value, [w for w in words if isinstance(w, str)], n=1, cutoff=0.5)
    one_of = [*(["a number"] if numbers else []), *map(str, words)]
    hint_ = f"did you mean {near[0]!r}?" if near else f"it takes {', '.join(one_of)}"
    raise ConfigError(f"{lines.get(path, '.'.join(path))}: {what} cannot have {path[-1]} {value!r}; {hint_}")


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
    return getattr(importlib.import_module(module), name)
