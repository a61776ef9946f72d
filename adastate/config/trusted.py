"""Which classes the configuration of a run folder may name: reading one must not run code that nobody has looked at."""

from __future__ import annotations

import importlib.util
import os
import re
from argparse import ArgumentParser
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from adastate.config.schema import ConfigError

FLAG, VARIABLE = "--trust-code", "ADASTATE_TRUST_CODE"
"""On any command line, and what it leaves for the processes that the command starts."""

OURS = ("adastate", "datamodules", "callbacks")
OTHERS = ("lightning.pytorch.", "torch.nn.", "torch.optim.")
"""Of Lightning and torch: modules, optimisers and what belongs to a trainer, and nothing that loads or runs files."""

DOTTED = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)+")


def add_flag(parser: ArgumentParser) -> None:
    """The flag in the help of a command that reads run folders; main.py has read it before any parser does."""
    parser.add_argument(
        FLAG,
        action="store_true",
        help="allow classes from outside this project, Lightning and torch in the run folder's configuration: "
        "docs/extending.md",
    )


def check_trusted(config: Any, file: Path) -> None:
    """Refuses a configuration that was read from a run folder and names other classes, before any is imported.

    Raises:
        ConfigError: it does, and nobody has said `--trust-code`.
    """
    if os.environ.get(VARIABLE):
        return
    for path, is_class in _named(config):
        if not _trusted(path) and (is_class or _importable(path)):
            raise ConfigError(
                f"{file} names {path}, which is code from outside this project, Lightning and torch; give {FLAG} if "
                "you know it"
            )


def _named(node: Any, key: str = "") -> Iterator[tuple[str, bool]]:
    """Dotted names, and whether each is said to be a class; a bare one may stand for a class as well."""
    if isinstance(node, dict):
        for name, value in node.items():
            yield from _named(value, str(name))
    elif isinstance(node, (list, tuple)):
        for value in node:
            yield from _named(value)
    elif key == "class_path":
        yield str(node), True
    elif isinstance(node, str) and DOTTED.fullmatch(node):
        yield node, False


def _trusted(path: str) -> bool:
    """Names beyond a module of ours, such as what it imports, are not."""
    if not DOTTED.fullmatch(path):
        return False
    known = path.startswith(OTHERS) or path.split(".")[0] in OURS
    return known and _is_module(path.rpartition(".")[0])


def _is_module(path: str) -> bool:
    """Whether a dotted name is a module by its file, without importing anything."""
    top, *parts = path.split(".")
    found = importlib.util.find_spec(top)
    places = [Path(place) for place in (found and found.submodule_search_locations) or ()]
    for i, part in enumerate(parts):
        last = i + 1 == len(parts)
        if last and any((place / f"{part}.py").is_file() for place in places):
            return True
        places = [place / part for place in places if (place / part / "__init__.py").is_file()]
    return bool(places)


def _importable(path: str) -> bool:
    return importlib.util.find_spec(path.split(".")[0]) is not None
