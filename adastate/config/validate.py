"""Checks keys and values of a configuration against the constructors that they are for."""

from __future__ import annotations

import dataclasses
import inspect
import math
import typing
from collections.abc import Sequence
from typing import Any

from adastate.config.classes import (
    ABSENT,
    block_of,
    constructor_hints,
    constructor_parameters,
    described_class,
    field_hints,
    function_hints,
    takes_any,
)
from adastate.config.key_places import near_key
from adastate.config.schema import (
    ABOVE,
    ALIKE,
    FLAGS,
    LEAST,
    LIGHTNING,
    MOST,
    VARIABLES,
    Config,
    ConfigError,
    Lines,
    Path_,
)
from adastate.config.text import read_value
from adastate.config.trainer_classes import check_trainer_class
from adastate.config.value_types import SEQUENCES, asked_for, fits, is_number, is_text, nearest_word
from adastate.models.size import Size
from adastate.stream import StreamSpec
from adastate.stream.anchors import anchor_named

TRAINER = "lightning.pytorch.Trainer"


def check_words(config: Config, words: Sequence[str]) -> None:
    """Refuses words for Lightning ("--model.horizon_weight=4") that name what is not there or hold what does not fit.

    Raises:
        ConfigError: for the first of them, with the nearest that there is or what would fit.
    """
    for i, word in enumerate(words):
        if not word.startswith("--"):
            continue
        name, equals, value = word.removeprefix("--").partition("=")
        head, *path = name.rstrip("+").split(".")
        if head not in (*LIGHTNING, *VARIABLES, *FLAGS):
            _near(word, "`adastate fit`", head, (*LIGHTNING, *VARIABLES, *FLAGS), config)
        given = value if equals else next(iter(words[i + 1 : i + 2]), "")
        if head in ("model", "data", "trainer") and not path and given.isidentifier():
            raise ConfigError(
                f"{word}: {head} has keys of its own: --{head}.KEY=VALUE changes one of them"
                + (", --" + head + ".class_path=package.module.Class its class" if head != "trainer" else "")
            )
        if path and equals and not value.strip():
            raise ConfigError(f"{word} is empty: give --{name}=VALUE, or --{name}=null for nothing")
        if path[-1:] == ["class_path"] or (not path and head in ("model", "data") and given[:1] not in ("{", "/")):
            _require_class(word, given)
        check_trainer_class(word, name, given)
        if {"class_path", "help"} & set(path):
            continue
        found = _argument(config, word, head, [part for part in path if part != "init_args"])
        if found is not None:
            what, hint = found
            if name.endswith("+"):
                _require_list(word, name, given, hint)
                continue
            check_value(what, path[-1], given if is_text(hint) else read_value(given, word), hint, word)


def _require_class(word: str, given: str) -> None:
    """Refuses the path of a class that is not there; a name without dots is left to Lightning, which knows some."""
    if "." in given and not given.endswith((".yaml", ".yml")):
        try:
            described_class(given)
        except ABSENT as error:
            raise ConfigError(f"{word}: there is no class {given} ({error})") from error


def _require_list(word: str, name: str, given: str, hint: Any) -> None:
    """Refuses += for what is no list."""
    kinds = [kind for kind in (hint, *typing.get_args(hint)) if (typing.get_origin(kind) or kind) in SEQUENCES]
    if hint is not None and not kinds:
        raise ConfigError(f"{word}: += adds to a list, and {name.rstrip('+')} is none: --{name.rstrip('+')}={given}")


def _argument(config: Config, word: str, head: str, path: list[str]) -> tuple[str, Any] | None:
    """(whose argument, its type) of the one that a word names; None where that is left to Lightning."""
    if head == "trainer" and path:
        trainer = described_class(TRAINER)
        _near(word, "the trainer", path[0], constructor_parameters(trainer), config)
        return ("the trainer", constructor_hints(trainer).get(path[0])) if len(path) == 1 else None
    node, found = config.lightning.get(head), None
    if head not in ("model", "data"):
        return None
    for key, part in zip((head, *path), path, strict=False):
        block = block_of(found[1]) if found is not None else None
        if isinstance(node, dict) and "class_path" in node:
            cls = described_class(node["class_path"])
            _near(word, node["class_path"], part, constructor_parameters(cls), config)
            found, node = (node["class_path"], constructor_hints(cls).get(part)), node.get("init_args") or {}
        elif block is not None:
            _near(word, key, part, [f.name for f in dataclasses.fields(block)], config)
            found = key, field_hints(block)[part]
        elif isinstance(node, dict):
            found = None
        else:
            return None
        node = node.get(part) if isinstance(node, dict) else None
    return found


def _near(word: str, what: str, key: str, known: Sequence[str], config: Config) -> None:
    if key not in known:
        raise ConfigError(f"{word}: {what} has no {key!r}; {near_key(key, known, config.lightning, '--')}")


def check_class(node: Any, path: Path_, lines: Lines) -> None:
    """Checks `init_args` of a {class_path, init_args} node, and of those within it."""
    if isinstance(node, list):
        for i, part in enumerate(node):
            check_class(part, (*path, str(i)), lines)
    if not isinstance(node, dict):
        return
    if "class_path" not in node:
        if path[:2] == ("trainer", "callbacks") and len(path) == 3:
            at = next((lines[(*path, str(key))] for key in node if (*path, str(key)) in lines), ".".join(path))
            raise ConfigError(f"{at}: a callback is named by class_path; here stands {', '.join(map(str, node))}")
        for key, value in node.items():
            check_class(value, (*path, key), lines)
        return
    where = node["class_path"]
    if not isinstance(where, str):
        raise ConfigError(f"{'.'.join(path)}: class_path is {where}; it names a class, package.module.Class")
    check_names(f"what is made of {where}", node, ("class_path", "init_args", "dict_kwargs"), path, lines)
    try:
        cls = described_class(where)
    except ABSENT as error:
        at = lines.get((*path, "class_path"), ".".join(path))
        raise ConfigError(f"{at}: there is no class {where} ({error})") from error
    arguments = node.get("init_args") or {}
    if not takes_any(cls):
        check_names(where, arguments, constructor_parameters(cls), (*path, "init_args"), lines)
    hints = constructor_hints(cls)
    for key, value in arguments.items():
        hint = hints.get(key)
        here = (*path, "init_args", key)
        check_value(where, key, value, hint, lines.get(here, ".".join(here)))
        protocols = [kind for kind in (hint, *typing.get_args(hint)) if getattr(kind, "_is_protocol", False)]
        if protocols and isinstance(value, dict) and "class_path" in value:
            check_form(key, value["class_path"], protocols[0], (*here, "class_path"), lines)
        kind = block_of(hint)
        if kind is not None and isinstance(value, dict) and "class_path" not in value:
            check_fields(key, value, kind, here, lines)
        else:
            check_class(value, here, lines)


def check_trainer(trainer: dict[str, Any], lines: Lines) -> None:
    """Checks the arguments of Lightning's trainer, and of the classes that are among them."""
    known = described_class(TRAINER)
    hints = constructor_hints(known)
    check_names("the trainer", trainer, constructor_parameters(known), ("trainer",), lines)
    for key, value in trainer.items():
        check_value("the trainer", key, value, hints.get(key), lines.get(("trainer", key), f"trainer.{key}"))
        check_class(value, ("trainer", key), lines)


def check_form(key: str, class_path: str, protocol: Any, path: Path_, lines: Lines) -> None:
    """Refuses a class that has not the methods, types included, of the protocol of an argument `key`.

    Raises:
        ConfigError: with the method that it needs.
    """
    try:
        cls = described_class(class_path)
    except ABSENT:
        return  # `check_class` says so
    for name, method in vars(protocol).items():
        if not inspect.isfunction(method) or name.startswith("_"):
            continue
        own, wanted = getattr(cls, name, None), inspect.signature(method)
        same = own is not None and list(inspect.signature(own).parameters) == list(wanted.parameters)
        if not same or function_hints(own) != function_hints(method):
            at = lines.get(path, ".".join(path))
            asked = str(wanted).replace("'", "")
            raise ConfigError(f"{at}: {class_path} cannot be the {key}: it needs a method {name}{asked}")


def check_block(name: str, block: Any, lines: Lines) -> None:
    kinds: dict[str, Any] = {"size": Size, "teacher_size": Size, "critic_size": Size, "stream": StreamSpec}
    if name in kinds and isinstance(block, dict):
        check_fields(name, block, kinds[name], (name,), lines)
        key = "anchor" if name == "stream" else "backbone"
        if key in block:
            try:
                _find(key, str(block[key]))
            except ValueError as error:
                raise ConfigError(f"{lines.get((name, key), f'{name}.{key}')}: {error}") from error
        try:
            StreamSpec.of(block) if name == "stream" else Size(**{k: _tuple(v) for k, v in block.items()})
        except ValueError as error:  # what does not go together: the key named first in the sentence is shown
            named = [lines[(name, key)] for key in block if key in str(error) and (name, key) in lines]
            raise ConfigError(f"{named[0] if named else name}: {error}") from error
    elif isinstance(block, dict):
        check_class(block, (name,), lines)
    elif name in kinds and block is not None:
        remedy = f"--system {block}" if name == "stream" else f"--config conf/sizes/{block}.yaml"
        raise ConfigError(f"{lines.get((name,), name)}: {name} has keys of its own, and no value: {remedy} sets them")


def _find(key: str, name: str) -> None:
    """Raises ValueError unless there is such an anchor or backbone."""
    if key == "anchor":
        anchor_named(name)
    elif name != Size.backbone:
        from adastate.models.backbones import backbone_named  # which brings torch with it

        backbone_named(name)


def check_fields(name: str, block: dict[str, Any], kind: Any, path: Path_, lines: Lines) -> None:
    """Checks the keys and values of a block against the dataclass that is made of it."""
    check_names(name, block, [f.name for f in dataclasses.fields(kind)], path, lines)
    hints = field_hints(kind)
    for key, value in block.items():
        check_value(name, key, value, hints[key], lines.get((*path, key), ".".join((*path, key))))
        kind_within = block_of(hints[key])
        if kind_within is not None and isinstance(value, dict):
            check_fields(key, value, kind_within, (*path, key), lines)


def _tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def check_values(name: str, block: Any, known: Any, path: Path_, lines: Lines) -> None:
    """Checks the keys of a block of values, and the values, against those of the schema.

    Raises:
        ConfigError: for one that is not there, with the nearest that is; for a value that does not fit.
    """
    if not isinstance(known, dict):
        above, _, key = name.rpartition(".")
        where = lines.get(path, ".".join(path))
        check_value(above or "a configuration", key, block, known, where, name)
        return
    if block is None or str(block).startswith("${"):
        return
    if not isinstance(block, dict):
        at = lines.get(path, ".".join(path))
        raise ConfigError(f"{at}: {name} has keys of its own ({', '.join(known)}), and no value")
    check_names(name, block, list(known), path, lines)
    for key, value in block.items():
        check_values(f"{name}.{key}", value, known[key], (*path, key), lines)


def _check_bounds(name: str, key: str, value: Any, hint: Any, where: str) -> None:
    """Refuses numbers out of the bounds that the schema has for their key, and those that are none (nan, inf)."""
    least, most, above = LEAST.get(key, -math.inf), MOST.get(key, math.inf), ABOVE.get(key, -math.inf)
    for number in value if isinstance(value, list) else [value]:
        if isinstance(number, str) and is_number(number) and not is_text(hint):
            number = float(number)
        if isinstance(number, bool) or not isinstance(number, int | float):
            continue
        if not math.isfinite(number):
            raise ConfigError(f"{where}: {name} is {number}; it must be a finite number")
        if not least <= number <= most or number <= above:
            bounds = f"at least {least}" if most == math.inf else f"from {least} to {most}"
            bounds = f"above {above}" if key in ABOVE else bounds
            raise ConfigError(f"{where}: {name} is {number}; it has to be {bounds}")


def check_names(what: str, given: dict[str, Any], known: Sequence[str], path: Path_, lines: Lines) -> None:
    for key in given:
        if key not in known:
            at = lines.get((*path, str(key)), ".".join((*path, str(key))))
            raise ConfigError(f"{at}: {what} has no {key!r}; {near_key(str(key), known)}")


def check_value(what: str, key: str, value: Any, hint: Any, where: str, name: str = "") -> None:
    """Refuses a value that is not of the type of the argument `key` of `what`, or out of its bounds.

    Args:
        name: of the value in a sentence about its bounds; default: the key.

    Raises:
        ConfigError: with what would fit.
    """
    if hint is None or str(value).startswith("${"):
        return
    if fits(value, hint):
        _check_bounds(name or key, key if name or key in ALIKE else "", value, hint, where)
        return
    near = nearest_word(value, hint) if isinstance(value, str) else ""
    remedy = f"did you mean {near!r}?" if near else f"it takes {asked_for(hint)}"
    if isinstance(value, list) and any(isinstance(part, dict) for part in value):
        remedy += "; put quotes around text with a colon in it"
    raise ConfigError(f"{where}: {what} cannot have {key} {value!r}; {remedy}")
