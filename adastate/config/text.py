"""YAML as people write it: what is meant as text stays text, and mistakes are told with file and line."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from adastate.config.classes import ABSENT, constructor_hints, described_class
from adastate.config.conf_files import conf_path
from adastate.config.schema import PLAIN, ConfigError, Lines, Path_, Words
from adastate.config.value_types import is_text
from adastate.runtime import plain_yaml, run_paths
from adastate.runtime.spelling import likeliest_word, meant

NOTHING = ("null", "Null", "NULL", "~", "")
"""How YAML writes that there is no value."""

OTHER_BASES = re.compile(r"[-+]?0[0-7_]+|[-+]?[0-9][0-9_]*(:[0-5]?[0-9])+(\.[0-9_]*)?")
"""Numbers to the base of 8 and of 60, as YAML has them."""


class _Loader(yaml.SafeLoader):
    """Without dates, which no key takes."""


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in found if tag != "tag:yaml.org,2002:timestamp"]
    for first, found in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def read_yaml(file: Path, lines: Lines, words: Words) -> dict[str, Any]:
    """What a file holds; the place of each key is noted in `lines`, its unquoted text in `words`.

    Raises:
        ConfigError: no file, no YAML, or no keys.
    """
    file = conf_path(file)
    if not file.is_file():
        raise ConfigError(_no_file(file))
    try:
        text = file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{file} is not UTF-8 text (byte {error.start}): save it as UTF-8") from error
    except OSError as error:
        raise ConfigError(f"{file} cannot be read ({error.strerror}): check its permissions and its disk") from error
    try:
        node, content = plain_yaml.load_nodes(text, _Loader)
    except yaml.YAMLError as error:
        raise ConfigError(f"{_place(file, error)}: this is not valid YAML ({_problem(error)})") from error
    if node is None:
        return {}
    if not isinstance(content, dict):
        raise ConfigError(f"{file} holds no keys at its top level")
    _record(node, (), file, lines, words)
    # What a run has stored, in quotes: where it lies now.
    return dict(run_paths.located(content, run_paths.run_of(file))) if run_paths.RUN in text else content


def _no_file(file: Path) -> str:
    """A sentence about a config file that is not there: the nearest beside it, or all there; the nearest of conf/."""
    if file.is_dir():
        there = ", ".join(sorted(p.name for p in file.glob("*.yaml")))
        return f"{file} is a folder{f': name a file of it, {there}' if there else ' without a .yaml file: name a file'}"
    beside = conf_path(file.parent)
    known = sorted(p.stem for p in beside.glob("*.yaml")) if file.parts[:1] == ("conf",) else []
    if known:
        near = likeliest_word(file.stem, known)
        hint = f"did you mean {file.parent / near}.yaml? " if near else ""
        return f"no config file {file}; {hint}{file.parent}/ holds {', '.join(known)}"
    every = [str(Path("conf") / p.relative_to(conf_path("conf"))) for p in conf_path("conf").rglob("*.yaml")]
    return f"no config file {file}; {meant(file, every, 'conf/ holds the ones that come with the project')}"


def read_value(text: str, where: str) -> Any:
    """The value of an override; what is no YAML is text."""
    try:
        return plain_yaml.load_yaml(text, _Loader)
    except yaml.YAMLError as error:
        if text[:1] in "[{&":
            raise ConfigError(f"{where}: this is not valid YAML ({_problem(error)})") from error
        return text


def forget_below(words: Words, path: Path_) -> None:
    """What was written at `path` and below it is replaced."""
    for other in [p for p in words if p[: len(path)] == path]:
        del words[other]


def as_written(config: Any, words: Words, lines: Lines) -> Any:
    """`config`, not yet resolved, in which the keys that take text have it as it was written.

    Raises:
        ConfigError: a number in one of YAML's other notations, 010 for 8 and 1:30 for 90.
    """
    for path, word in words.items():
        if word in NOTHING or not _takes_text(config, path):
            if (number := OTHER_BASES.fullmatch(word)) is not None:
                at = lines.get(path, ".".join(path))
                told = plain_yaml.load_yaml(number[0], _Loader)
                if isinstance(told, int | float):
                    raise ConfigError(f"{at}: {word} would be read as {told}: write that, or '{word}' for text")
            continue
        *above, last = path
        node = config
        for part in above:
            node = node[int(part)] if isinstance(node, list) else node[part]
        key = int(last) if isinstance(node, list) else last
        if not isinstance(node[key], str) or not path[-1].isdigit():
            node[key] = word
    return config


def _takes_text(config: Any, path: Path_) -> bool:
    """Whether the value at `path` is there and is text, by the schema or by the type of a constructor's argument."""
    known: Any = PLAIN.get(path[0])
    node, hint = config, Any
    for i, part in enumerate(path):
        if isinstance(node, list):
            if not part.isdigit() or int(part) >= len(node):
                return False
            node = node[int(part)]
            continue  # of a list, what its entries are
        if not isinstance(node, dict) or part not in node:
            return False
        if part == "init_args" and "class_path" in node:
            hints = _hints(str(node["class_path"]))
            hint = hints.get(path[i + 1], Any) if i + 1 < len(path) else Any
        elif i and path[i - 1] != "init_args":
            hint = Any
        if i and isinstance(known, dict):
            known = known.get(part)
        node = node[part]
    return is_text(hint if known is None else known)


def _hints(class_path: str) -> dict[str, Any]:
    try:
        return constructor_hints(described_class(class_path))
    except (*ABSENT, NameError):
        return {}  # told where classes are checked


def _record(node: yaml.Node, path: Path_, file: Path, lines: Lines, words: Words) -> None:
    if isinstance(node, yaml.MappingNode):
        seen = set()
        for key, value in node.value:
            at = f"{file}, line {key.start_mark.line + 1}"
            if not isinstance(key, yaml.ScalarNode) or key.tag.endswith(":null"):
                raise ConfigError(f"{at}: a key has to be a name")
            if key.value in seen and not key.tag.endswith(":merge"):
                raise ConfigError(f"{at}: {key.value} stands here twice: leave one of them out")
            seen.add(key.value)
            here = (*path, str(key.value))
            lines[here] = f"{file}, line {key.start_mark.line + 1}"
            _record(value, here, file, lines, words)
    elif isinstance(node, yaml.SequenceNode):
        forget_below(words, path)
        for i, value in enumerate(node.value):
            _record(value, (*path, str(i)), file, lines, words)
    elif isinstance(node, yaml.ScalarNode):
        words.pop(path, None)
        if node.style is None:
            words[path] = node.value


def _place(file: Path, error: yaml.YAMLError) -> str:
    mark = getattr(error, "problem_mark", None)
    return f"{file}, line {mark.line + 1}" if mark else str(file)


def _problem(error: yaml.YAMLError) -> str:
    said = ", ".join(filter(None, (getattr(error, name, "") for name in ("context", "problem")))) or str(error)
    told = " ".join(said.split())
    quotes = "; put quotes around text with a colon in it, or a @, % or ` before it"
    return told + quotes * bool(re.search("mapping values|cannot start any token", told)) or "unreadable"
