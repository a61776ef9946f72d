"""Composition of YAML files before Lightning reads them.

Files are merged in order, then `${...}` is resolved over the merged whole, so that one block (`size`, `stream`,
`codec`, ...) can be written once and serve teacher, student and critic. Those blocks are variables: they are taken
out again, and what is left is a plain LightningCLI config. Keys are checked against the constructors that they are
for, because an unknown key deserves its nearest neighbour, its file and its line.
"""

from __future__ import annotations

import re
import typing
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from adastate.config import environment
from adastate.config.classes import derives
from adastate.config.conf_files import conf_path
from adastate.config.schema import LIGHTNING, PLAIN, VARIABLES, Config, ConfigError, Lines, Path_, T, Words
from adastate.config.text import as_written, forget_below, read_value, read_yaml
from adastate.config.validate import check_block, check_class, check_names, check_trainer, check_values
from adastate.runtime.spelling import meant


def compose(files: Sequence[Path], overrides: Sequence[str] = ()) -> Config:
    """The merged, resolved and checked config of `files` and dotted `overrides` ("size.width=64")."""
    merged: Any = OmegaConf.create()
    lines, words = Lines(), Words()
    for file in files:
        content = read_yaml(file, lines, words)
        _check_forms(merged, content, lines)
        _forget_other_classes(merged, content)
        with _references(lines):
            merged = OmegaConf.merge(merged, OmegaConf.create(content))
    for override in overrides:
        short, _, value = override.partition("=")
        key, told = _written_out(short, merged), read_value(value, f"--{override}")
        _check_forms(merged, _nested(key, told), Lines({tuple(key.split(".")): f"--{override}"}))
        _forget_other_classes(merged, _nested(key, told))
        with _references(Lines({tuple(key.split(".")): f"--{override}"})):
            OmegaConf.update(merged, key, told)
        lines[tuple(key.split("."))] = f"--{override}"
        forget_below(words, tuple(key.split(".")))
        if value == value.strip("\"'") if isinstance(told, str) else value[:1] not in ("[", "{"):
            words[tuple(key.split("."))] = value
    written = as_written(OmegaConf.to_container(merged), words, lines)
    check_names("the top level", written, (*LIGHTNING, *VARIABLES), (), lines)
    # before they are resolved: what asks for one that is wrong could only say that it found nothing
    for name in (name for name in PLAIN if name in written):
        check_values(name, written.get(name), PLAIN[name], (name,), lines)
    try:
        config: Any = OmegaConf.to_container(OmegaConf.create(written), resolve=True)
    except OmegaConfBaseException as error:
        said = str(error).splitlines()[0]
        raise ConfigError(f"{_where(error, lines)}{said}{_who_sets(said, written)}") from error
    assert isinstance(config, dict)
    kept = environment.unresolved(written, config)
    plain = {k: v for k, v in config.items() if k in LIGHTNING}
    # first, because a mistake in a variable shows wherever it is used, and there it has no line
    for name in VARIABLES:
        if name not in PLAIN:
            check_block(name, config.get(name), lines)
    for key in ("model", "data", "trainer"):
        if plain.get(key) is not None and not isinstance(plain[key], dict):
            at = lines.get((key,), key)
            raise ConfigError(f"{at}: {key} has keys of its own, and no value: {key}.class_path names its class")
    for key in ("model", "data"):
        if key in plain:
            check_class(plain[key], (key,), lines)
    check_trainer(plain.get("trainer") or {}, lines)
    variables = {k: v for k, v in config.items() if k in VARIABLES}
    return Config(plain, variables, kept)


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


@contextmanager
def _references(lines: Lines) -> Iterator[None]:
    """Within it a `$` that begins no reference is a ConfigError."""
    try:
        yield
    except OmegaConfBaseException as error:
        said = str(error).splitlines()[0]
        raise ConfigError(f"{_where(error, lines)}{said}; `${{` begins a reference such as `${{run.dir}}`") from error


def _check_forms(below: Any, above: Any, lines: Lines, path: Path_ = ()) -> None:
    """Refuses a list in the place of keys, and keys in the place of a list."""
    kinds = {True: "keys of its own", False: "a list"}
    if OmegaConf.is_config(below) and isinstance(above, list | dict):
        has = OmegaConf.is_dict(below)
        if has != isinstance(above, dict):
            at = lines.get(path, ".".join(path))
            raise ConfigError(f"{at}: {'.'.join(path)} takes {kinds[has]}, and not {kinds[not has].split(' of')[0]}")
    if isinstance(above, dict) and OmegaConf.is_dict(below):
        for key, value in above.items():
            _check_forms(below._get_node(key) if key in below else None, value, lines, (*path, str(key)))


def _written_out(key: str, config: Any) -> str:
    """A dotted key with each `init_args` that may be left out, as Lightning lets them: `model.objective.class_path` is
    `model.init_args.objective.class_path`."""
    parts, node = list[str](), config
    for part in key.split("."):
        if OmegaConf.is_dict(node) and "class_path" in node and part not in ("class_path", "init_args"):
            parts.append("init_args")
            node = node._get_node("init_args")
        parts.append(part)
        node = node._get_node(part) if OmegaConf.is_dict(node) else None
    return ".".join(parts)


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
        and not derives(str(above["class_path"]), str(earlier))
    ):
        below.pop("init_args", None)
    for key, value in above.items():
        if isinstance(value, dict) and not OmegaConf.is_missing(below, key) and key in below:
            node = below._get_node(key)
            _forget_other_classes(node, value)


def _who_sets(said: str, written: dict[str, Any]) -> str:
    """What to do about a reference that finds nothing: the file that sets it, or the nearest name."""
    found = re.match(r"Interpolation key '([^'.]+)(?:\.(\w+))?", said)
    if found is None:
        return ""
    head, key = found.groups()
    sets = {"conf/base.yaml": "before all others", "conf/sizes/tiny.yaml": "or another of conf/sizes/"}
    for file, how in sets.items():
        if head not in written and head in read_yaml(conf_path(file), Lines(), Words()):
            return f"; give --config {file}, {how}"
    block = written.get(head)
    return f"; {meant(key, block) if isinstance(block, dict) and key else meant(head, written)}"


def _where(error: OmegaConfBaseException, lines: Lines) -> str:
    key = tuple(p for p in re.split(r"[.\[\]]", getattr(error, "full_key", "") or "") if p)
    return f"{lines[key]}: " if key in lines else ""
