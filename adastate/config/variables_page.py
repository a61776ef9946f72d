"""What `adastate fit --help` tells of a configuration: its variables, the trainer's arguments, the classes."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

from adastate.config.classes import constructor_hints, constructor_parameters, described_class
from adastate.config.schema import PLAIN, VARIABLES, Config
from adastate.config.validate import TRAINER
from adastate.config.value_types import asked_for


def variables_page(config: Config) -> str:
    """The variables, one a line, with the values that the given files have, and defaults where they say nothing."""
    rows = [row for name in VARIABLES for row in _rows(name, config.variables.get(name))]
    width = max(len(key) for key, _ in rows)
    lines = [f"  --{key:<{width}}  {value}".rstrip() for key, value in rows]
    return "\n".join(["Variables, with their values in the given files, or the defaults:", *lines, ""])


def trainer_page(config: Config) -> str:
    """Arguments of the trainer, and of the classes that the given files name, with what they have there."""
    given = config.lightning.get("trainer") or {}
    cls = described_class(TRAINER)
    hints = constructor_hints(cls)
    keys = {f"trainer.{name}": (given.get(name), asked_for(hints.get(name))) for name in constructor_parameters(cls)}
    width = max(map(len, keys))
    lines = [
        f"  --{key:<{width}}  {_short(value) if value is not None else f'({takes})'}"
        for key, (value, takes) in keys.items()
    ]
    named = {part: (config.lightning.get(part) or {}).get("class_path") for part in ("model", "data")}
    parts = [f"  --{part:<5}  {path or '(the class_path of one)'}" for part, path in named.items()]
    end = "Arguments of a class: --model.KEY=VALUE. To list them: --model.help CLASS, --trainer.logger.help CLASS."
    head = "Arguments of Lightning's trainer, with their values in the given files, or the accepted types:"
    return "\n".join([head, *lines, "", "Classes:", *parts, "", end, ""])


def _rows(name: str, given: Any) -> Iterator[tuple[str, str]]:
    known: Any = PLAIN.get(name, _defaults(name))
    yield from _spread(name, known, given)


def _spread(key: str, known: Any, given: Any) -> Iterator[tuple[str, str]]:
    if isinstance(given, dict) and "class_path" in given:
        yield f"{key}.class_path", str(given["class_path"])
        for name, value in (given.get("init_args") or {}).items():
            yield f"{key}.init_args.{name}", _short(value)
        return
    if not isinstance(known, dict):
        yield key, _short(given)
        return
    told = given if isinstance(given, dict) else {}
    for name, below in known.items():
        if isinstance(below, dict) and name not in told:
            continue  # numbers of a stage that no file brings
        below = {k: v for k, v in below.items() if k in told[name]} if isinstance(below, dict) else below
        yield from _spread(f"{key}.{name}", below, told.get(name, below if key in ("size", "stream") else None))


def _defaults(name: str) -> dict[str, Any] | None:
    """Fields and defaults of the blocks that are made into an object of their own."""
    from adastate.models.size import Size
    from adastate.stream import StreamSpec

    kind: Any = {"size": Size, "stream": StreamSpec}.get(name)
    if kind is None:
        return None
    return {f.name: None if f.default is dataclasses.MISSING else f.default for f in dataclasses.fields(kind)}


def _short(value: Any) -> str:
    text = "null" if value is None else repr(value) if value == "" else str(value)
    return text if len(text) <= 70 else f"{text[:67]}..."
