"""The words of the built-in worlds, read from their sources, so that a prompt is looked at before torch is imported."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from adastate.config.described import described


def words(text: str) -> list[str]:
    return re.findall(r"[\w-]+", text)


def vocabulary(kind: str) -> tuple[str, ...]:
    """Every word that a prompt of a world can have, in the order of the alphabet."""
    if kind == "flight":
        told = [*_of("flight.flight_prompts", "PHRASES"), *map(_one("flight.flight_prompts"), ("WITH", "LATER"))]
        told += [*_of("flight.biomes", "BIOMES"), *_of("flight.atmosphere", "TIMES", "WEATHERS")]
        told += [name for name in _of("flight.voyages", "LANDMARKS") if name != "nothing else"]
    else:
        journeys = kind != "plain"
        told = [*_of("journey", "TEMPLATES", "COMPANY")] if journeys else [*_of("flyover", "TEMPLATES", "MOVERS")]
        told += _of("flyover", "HEADINGS", "SPEEDS") + ([] if journeys else _of("flyover", "PALETTES"))
    found = {word for text in told for word in words(re.sub(r"{\w+}", " ", text))}
    return tuple(sorted(found, key=lambda word: (word.lower(), word)))


def vocabularies() -> str:
    """The words of the worlds that models are trained in, for the help of commands that take prompts."""
    told = (f"{kind}: {' '.join(vocabulary(kind))}." for kind in ("plain", "flight"))
    return "Prompts of the built-in worlds consist of these words. " + " ".join(told)


def unknown_words(prompts: Sequence[str], world: str | None) -> list[str]:
    """The words that no prompt of a built-in world has, in their order; none where prompts are free."""
    if world is None:
        return []
    known = {word.lower() for word in vocabulary(world)}
    told = [word for prompt in prompts for word in words(prompt.lower())]
    return [word for word in dict.fromkeys(told) if word not in known]


def strange_words(command: str, prompts: Sequence[str], world: str | None) -> str:
    """A note on words that the network has not learnt, which are embedded like any other; empty if there are none."""
    if not (unknown := unknown_words(prompts, world)):
        return ""
    return (
        f"adastate {command}: note: {', '.join(map(repr, unknown))}: not among the words of the {world} world, which "
        f"the network has learnt; adastate {command} --help lists them"
    )


def _one(module: str) -> Any:
    return lambda name: described(f"datamodules.worlds.{module}.{name}")


def _of(module: str, *names: str) -> list[str]:
    """The texts that a module has under `names`; of a table its keys."""
    return [text for name in names for text in _one(module)(name)]
