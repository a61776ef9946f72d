"""Composition of YAML files before Lightning reads them.

Files are merged in order, then `${...}` is resolved over the merged whole, so that one block (`size`, `stream`,
`codec`, ...) can be written once and serve teacher, student and critic. Those blocks are variables: they are taken
out again, and what is left is a plain LightningCLI config. Keys are checked against the constructors that they are
for, because an unknown key deserves its nearest neighbour, its file and its line.
"""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import importlib
import inspect
import json
import re
import types
import typing
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

LIGHTNING = ("model", "data", "trainer", "seed_everything", "ckpt_path", "weights_only", "optimizer", "lr_scheduler")
VARIABLES = (
    "run", "size", "teacher_size", "critic_size", "stream", "codec", "text", "grid", "flow", "training", "watch"
)  # fmt: skip

FLAGS = ("config", "system", "print_config", "help", "verbose")
"""Of Lightning's command line, beside its blocks."""

T = typing.TypeVar("T")
Path_ = tuple[str, ...]
Lines = dict[Path_, str]


@dataclasses.dataclass(frozen=True)
class Config:
    """A composed config: what Lightning reads, and the variables that it was made with."""

    lightning: dict[str, Any]
    variables: dict[str, Any]


class ConfigError(ValueError):
    """A mistake in a config file or an override, told in one sentence."""


def compose(files: Sequence[Path], overrides: Sequence[str] = ()) -> Config:
    """The merged, resolved and checked config of `files` and dotted `overrides` ("size.width=64")."""
    merged: Any = OmegaConf.create()
    lines = Lines()
    for file in files:
        content = _read(file, lines)
        _forget_other_classes(merged, content)
        merged = OmegaConf.merge(merged, OmegaConf.create(content))
    for override in overrides:
        key, _, value = override.partition("=")
        OmegaConf.update(merged, key, yaml.safe_load(value))
        lines[tuple(key.split("."))] = f"--{override}"
    try:
        config: Any = OmegaConf.to_container(merged, resolve=True)
    except OmegaConfBaseException as error:
        raise ConfigError(f"{_where(error, lines)}{str(error).splitlines()[0]}") from error
    assert isinstance(config, dict)
    _check_names("the top level", config, (*LIGHTNING, *VARIABLES), (), lines)
    plain = {k: v for k, v in config.items() if k in LIGHTNING}
    # first, because a mistake in a variable shows wherever it is used, and there it has no line
    for name in VARIABLES:
        if name not in ("run", "grid", "flow", "training", "watch"):
            _check_block(name, config.get(name), lines)
    for key in ("model", "data"):
        if key in plain:
            _check_class(plain[key], (key,), lines)
    _check_names("the trainer", plain.get("trainer") or {}, _parameters(pl.Trainer), ("trainer",), lines)
    return Config(plain, {k: v for k, v in config.items() if k in VARIABLES})


def build(node: dict[str, Any], base: type[T]) -> T:
    """The object that a {class_path, init_args} node describes, as LightningCLI would make it."""
    from jsonargparse import ArgumentParser

    parser = ArgumentParser()
    parser.add_subclass_arguments(base, "it")
    try:
        return typing.cast(T, parser.instantiate_classes(parser.parse_object({"it": node})).it)
    except ValueError as error:
        # jsonargparse lists every type that it tried; what the constructor said comes first
        said = [line.strip(" -") for line in str(error).splitlines() if line.startswith("  - ")]
        raise ConfigError(said[0] if said else str(error)) from error


def read_command(argv: Sequence[str]) -> tuple[Config, list[str]]:
    """Composes the `--config` files and variable overrides of a command line; the other arguments come back.

    `--system longlive` is the stream of conf/systems/longlive.yaml for the size's chunk, below any override.
    """
    files, overrides, rest, system = [], [], [], ""
    words = iter(argv)
    for word in words:
        if word in ("--config", "-c"):
            files.append(Path(next(words, "")))
        elif word.startswith("--config="):
            files.append(Path(word.partition("=")[2]))
        elif word.partition("=")[0] == "--system":
            system = word.partition("=")[2] or next(words, "")
        elif is_variable(word):
            overrides.append((word if "=" in word else f"{word}={next(words, '')}").removeprefix("--"))
        else:
            rest.append(word)
    if system:
        overrides = [*_of_system(system, compose(files, overrides)), *overrides]
    return compose(files, overrides), rest


def _of_system(name: str, config: Config) -> list[str]:
    """The overrides that make the stream of a config another system's."""
    from adastate.systems import read_system  # which composes its file here

    stream = config.variables.get("stream") or {}
    if "chunk_frames" not in stream:
        raise ConfigError(f"--system {name} is made for the size's chunk: give --config conf/sizes/... before it")
    system = read_system(name, stream["chunk_frames"])
    found = [f"stream.{key}={json.dumps(value)}" for key, value in dataclasses.asdict(system.spec).items()]
    return found + ([f"size.rope_rows={system.rope_rows}"] if system.rope_rows else [])


def is_variable(argument: str) -> bool:
    """Whether a command-line argument ("--stream.past_frames=6") sets a variable of ours."""
    name = argument.removeprefix("--").split("=")[0].split(".")[0]
    return argument.startswith("--") and name in VARIABLES


def check_words(config: Config, words: Sequence[str]) -> None:
    """Refuses words for Lightning ("--model.horizon_weight=4") that name what is not there, nearest neighbour told.

    Raises:
        ConfigError: for the first of them.
    """
    for word in (w for w in words if w.startswith("--")):
        head, *path = word.partition("=")[0].removeprefix("--").rstrip("+").split(".")
        if head == "trainer" and path and path[0] != "help":
            _near(word, "the trainer", path[0], _parameters(pl.Trainer))
        elif head not in (*LIGHTNING, *VARIABLES, *FLAGS):
            _near(word, "`adastate fit`", head, (*LIGHTNING, *VARIABLES, *FLAGS))
        node = config.lightning.get(head)
        if head not in ("model", "data") or {"class_path", "help"} & set(path):
            continue
        for part in (p for p in path if p != "init_args"):
            if not isinstance(node, dict):
                break
            if "class_path" in node:
                module, _, name = node["class_path"].rpartition(".")
                _near(word, node["class_path"], part, _parameters(getattr(importlib.import_module(module), name)))
                node = node.get("init_args") or {}
            node = node.get(part)


def _near(word: str, what: str, key: str, known: Sequence[str]) -> None:
    if key not in known:
        near = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
        raise ConfigError(
            f"{word}: {what} has no {key!r}; "
            + (f"did you mean {near[0]!r}?" if near else f"known are {', '.join(known)}")
        )


def _read(file: Path, lines: Lines) -> dict[str, Any]:
    if not file.is_file():
        raise ConfigError(f"no config file {file}; conf/ holds the ones that come with the project")
    text = file.read_text()
    try:
        node = yaml.compose(text)
        content = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"{file} is not valid YAML: {' '.join(str(error).split())}") from error
    if node is None:
        return {}
    _record(node, (), file, lines)
    if not isinstance(content, dict):
        raise ConfigError(f"{file} holds no keys at its top level")
    return content


def _forget_other_classes(below: Any, above: Any) -> None:
    """Where a later file names another class, the arguments of the earlier one are not its business."""
    if not isinstance(above, dict) or not OmegaConf.is_dict(below):
        return
    if "class_path" in above and below.get("class_path") not in (None, above["class_path"]):
        below.pop("init_args", None)
    for key, value in above.items():
        if isinstance(value, dict) and not OmegaConf.is_missing(below, key) and key in below:
            node = below._get_node(key)
            _forget_other_classes(node, value)


def _record(node: yaml.Node, path: Path_, file: Path, lines: Lines) -> None:
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            here = (*path, str(key.value))
            lines[here] = f"{file}, line {key.start_mark.line + 1}"
            _record(value, here, file, lines)


def _where(error: OmegaConfBaseException, lines: Lines) -> str:
    key = tuple(p for p in re.split(r"[.\[\]]", getattr(error, "full_key", "") or "") if p)
    return f"{lines[key]}: " if key in lines else ""


def _check_class(node: Any, path: Path_, lines: Lines) -> None:
    """Checks `init_args` of a {class_path, init_args} node, and of those within it."""
    if not isinstance(node, dict):
        return
    if "class_path" not in node:
        for key, value in node.items():
            _check_class(value, (*path, key), lines)
        return
    where = node["class_path"]
    module, _, name = where.rpartition(".")
    try:
        cls = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        at = lines.get((*path, "class_path"), ".".join(path))
        raise ConfigError(f"{at}: there is no class {where} ({error})") from error
    arguments = node.get("init_args") or {}
    _check_names(where, arguments, _parameters(cls), (*path, "init_args"), lines)
    hints = typing.get_type_hints(cls.__init__)
    for key, value in arguments.items():
        hint = hints.get(key)
        _check_value(where, value, hint, (*path, "init_args", key), lines)
        if dataclasses.is_dataclass(hint) and isinstance(value, dict):
            _check_names(key, value, [f.name for f in dataclasses.fields(hint)], (*path, "init_args", key), lines)
        else:
            _check_class(value, (*path, "init_args", key), lines)


def _check_block(name: str, block: Any, lines: Lines) -> None:
    from adastate.net import Size
    from adastate.stream import StreamSpec

    kinds: dict[str, Any] = {"size": Size, "teacher_size": Size, "critic_size": Size, "stream": StreamSpec}
    if name in kinds and isinstance(block, dict):
        _check_names(name, block, [f.name for f in dataclasses.fields(kinds[name])], (name,), lines)
        for key, value in block.items():
            _check_value(name, value, typing.get_type_hints(kinds[name])[key], (name, key), lines)
    elif isinstance(block, dict):
        _check_class(block, (name,), lines)


def _check_names(what: str, given: dict[str, Any], known: Sequence[str], path: Path_, lines: Lines) -> None:
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


def _parameters(cls: Any) -> list[str]:
    return [p for p in inspect.signature(cls.__init__).parameters if p not in ("self", "args", "kwargs")]
