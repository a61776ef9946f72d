"""Overrides of a configuration's own blocks, as commands take them that build no Lightning command line."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from adastate.config.command_line import unknown_option
from adastate.config.conf_files import FOLDERS, as_file
from adastate.config.schema import LIGHTNING, Config, ConfigError
from adastate.config.text import read_value
from adastate.config.validate import check_words


def override(config: Config, words: Sequence[str], command: str, options: Sequence[str] = ()) -> None:
    """Sets `--data.batch=4` and the like in `config`; `init_args` may be left out, as Lightning lets it.

    Args:
        options: that `command` has beside them.

    Raises:
        ConfigError: a word is neither an option of `command` nor a part of a config, or a value does not fit.
    """
    pairs = list(_read(words, command, options))
    check_words(config, [f"--{key}={value}" for key, value in pairs])
    for key, value in pairs:
        _put(config, key, read_value(value, f"--{key}={value}"))


def _read(words: Sequence[str], command: str, options: Sequence[str]) -> Iterator[tuple[str, str]]:
    rest = iter(words)
    for word in rest:
        key, equals, value = word.removeprefix("--").partition("=")
        if not word.startswith("--") or key.split(".")[0] not in LIGHTNING:
            if f"--{key}" in FOLDERS:
                raise ConfigError(as_file(f"--{key}", value if equals else next(rest, ""), command))
            raise ConfigError(unknown_option([word], options, stages=True))
        if not equals:
            value = next(rest, "")
        yield key, value


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
        node = node.setdefault("init_args", {})
    node[last] = value
