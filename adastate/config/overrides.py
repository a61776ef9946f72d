"""Overrides of a configuration's own blocks, as commands take them that build no Lightning command line."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from adastate.config.classes import constructor_parameters, described_class
from adastate.config.schema import LIGHTNING, Config, ConfigError
from adastate.runtime import plain_yaml


def override(config: Config, words: Sequence[str], command: str) -> None:
    """Sets `--data.batch=4` and the like in `config`; `init_args` may be left out, as Lightning lets it.

    Raises:
        ConfigError: a word is neither an option of `command` nor a part of a config.
    """
    for key, value in _read(words, command):
        _put(config, key, value)


def _read(words: Sequence[str], command: str) -> Iterator[tuple[str, Any]]:
    rest = iter(words)
    for word in rest:
        if not word.startswith("--"):
            raise ConfigError(f"{word!r} is no option; `{command} --help` lists them")
        key, equals, value = word.removeprefix("--").partition("=")
        if key.split(".")[0] not in LIGHTNING:
            raise ConfigError(f"--{key} is no option of `{command}` and no part of a config")
        yield key, plain_yaml.load_yaml(value if equals else next(rest, ""))


def _put(config: Config, key: str, value: Any) -> None:
    *path, last = key.split(".")
    node: Any = config.lightning
    for name in path:
        if isinstance(node, dict) and "class_path" in node and name != "init_args":
            node = node.setdefault("init_args", {})
        if not isinstance(node, dict) or not isinstance(node.setdefault(name, {}), dict):
            raise ConfigError(f"--{key}: there is no {name!r} with parts of its own")
        node = node[name]
    if "class_path" in node and last not in ("class_path", "init_args"):
        if last not in constructor_parameters(described_class(node["class_path"])):
            raise ConfigError(f"--{key}: {node['class_path']} has no {last!r}")
        node = node.setdefault("init_args", {})
    node[last] = value
