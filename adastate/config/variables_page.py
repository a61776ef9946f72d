"""What `adastate fit --help` tells of the variables of a configuration, before Lightning tells of its own arguments."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

from adastate.config.schema import PLAIN, VARIABLES, Config

INTRODUCTION = """\
adastate fit --config conf/base.yaml --config conf/sizes/tiny.yaml --config conf/stages/distill.yaml [--x.y=...]

Config files are merged in their order. What stands in a block at the top is written once and used by every part; an
override says it anew. --ckpt_path=auto, last or best goes on from the run folder's checkpoints (--allow_change KEYS
names what may differ from theirs), --overwrite begins anew where they lie. docs/reference/configuration.md
tells what each key means.
"""


def variables_page(config: Config) -> str:
    """The variables, one a line, with the values that the given files have, and defaults where they say nothing."""
    rows = [row for name in VARIABLES for row in _rows(name, config.variables.get(name))]
    width = max(len(key) for key, _ in rows)
    lines = [f"  --{key:<{width}}  {value}".rstrip() for key, value in rows]
    return "\n".join([INTRODUCTION, "Variables, with what the files given say, or else the default:", *lines, ""])


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
