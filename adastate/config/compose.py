"""Composition of YAML files before Lightning reads them.

Files are merged in order, then `${...}` is resolved over the merged whole, so that one block (`size`, `stream`,
`codec`, ...) can be written once and serve teacher, student and critic. Those blocks are variables: they are taken
out again, and what is left is a plain LightningCLI config. Keys are checked against the constructors that they are
for, because an unknown key deserves its nearest neighbour, its file and its line.
"""

from __future__ import annotations

import re
import typing
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from adastate.config.schema import LIGHTNING, PLAIN, VARIABLES, Config, ConfigError, Lines, Path_, T
from adastate.config.validate import check_block, check_class, check_names, class_at, constructor_parameters


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
        told = yaml.safe_load(value)
        _forget_other_classes(merged, _nested(key, told))
        OmegaConf.update(merged, key, told)
        lines[tuple(key.split("."))] = f"--{override}"
    try:
        config: Any = OmegaConf.to_container(merged, resolve=True)
    except OmegaConfBaseException as error:
        raise ConfigError(f"{_where(error, lines)}{str(error).splitlines()[0]}") from error
    assert isinstance(config, dict)
    check_names("the top level", config, (*LIGHTNING, *VARIABLES), (), lines)
    plain = {k: v for k, v in config.items() if k in LIGHTNING}
    # first, because a mistake in a variable shows wherever it is used, and there it has no line
    for name in VARIABLES:
        if name not in PLAIN:
            check_block(name, config.get(name), lines)
    for key in ("model", "data"):
        if key in plain:
            check_class(plain[key], (key,), lines)
    check_names("the trainer", plain.get("trainer") or {}, constructor_parameters(pl.Trainer), ("trainer",), lines)
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


def _nested(key: str, value: Any) -> dict[str, Any]:
    """{"a": {"b": value}} of the key "a.b"."""
    for name in reversed(key.split(".")):
        value = {name: value}
    return typing.cast(dict[str, Any], value)


def _forget_other_classes(below: Any, above: Any) -> None:
    """A change of `class_path` drops the earlier `init_args`, unless the new class derives from the old one."""
    if not isinstance(above, dict) or not OmegaConf.is_dict(below):
        return
    earlier = below.get("class_path")
    if (
        "class_path" in above
        and earlier not in (None, above["class_path"])
        and not _derives(above["class_path"], earlier)
    ):
        below.pop("init_args", None)
    for key, value in above.items():
        if isinstance(value, dict) and not OmegaConf.is_missing(below, key) and key in below:
            node = below._get_node(key)
            _forget_other_classes(node, value)


def _derives(new: Any, old: Any) -> bool:
    try:
        return issubclass(class_at(str(new)), class_at(str(old)))
    except (ImportError, AttributeError, ValueError, TypeError):
        return False  # `check_class` says which does not exist


def _record(node: yaml.Node, path: Path_, file: Path, lines: Lines) -> None:
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            here = (*path, str(key.value))
            lines[here] = f"{file}, line {key.start_mark.line + 1}"
            _record(value, here, file, lines)


def _where(error: OmegaConfBaseException, lines: Lines) -> str:
    key = tuple(p for p in re.split(r"[.\[\]]", getattr(error, "full_key", "") or "") if p)
    return f"{lines[key]}: " if key in lines else ""
