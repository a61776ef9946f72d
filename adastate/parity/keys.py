"""Which keys of a fixture its replay uses. Any other key is reported as an error, whatever its value."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from adastate.parity.fixture import Fixture
from adastate.parity.tolerances import Compared


def names_in_key(text: str) -> frozenset[str]:
    return frozenset(text.split())


DESCRIPTIVE = names_in_key(
    "system fixture name description comment repo commit source version torch device dtype seed seconds layout "
    "semantics note tensors inputs_file tol tolerance tolerances checks "
    # measured by the recorder, or a table of names
    "grid valid_text flex_vs_dense_sdpa diffusers_max_abs_diff diffusers_key_map diffusers_config "
    "params_without_grad noise_order_window_block_step score_call_order"
)
"""Keys that describe a run without changing it. `system` has already selected the replay."""

NOTE = re.compile(r"_notes?$")
"""Suffixes of keys that hold further remarks, as sentences."""

NET = names_in_key("config weights")
"""Keys of a replay with a network; Fixture checks their contents."""

SHAPES = names_in_key("batch latent_hw frame_seqlen")
"""Keys that also follow from the tensors: `replay` compares the two."""


@dataclass(frozen=True)
class Replay:
    """How one system is replayed.

    Attributes:
        run: replays a fixture and compares each of its outputs.
        keys: keys of meta.json that `run` uses, besides DESCRIPTIVE; `a.b` for key b of the dict a, or of each dict in
            the list a.
        inputs: regular expression for the names of the input tensors that it reads.
    """

    run: Callable[[Fixture], list[Compared]]
    keys: frozenset[str] = field(default_factory=frozenset)
    inputs: str = ""


def unknown_keys(fixture: Fixture, replay: Replay) -> list[str]:
    """Names of keys and input tensors that `replay` does not use."""
    strange = sorted(f"input {name}" for name in fixture.inputs if not re.fullmatch(replay.inputs, name))
    return sorted(set(_unknown(fixture.meta, replay.keys | SHAPES))) + strange


def _unknown(settings: dict[str, Any], keys: frozenset[str], prefix: str = "") -> Iterator[str]:
    for key, value in settings.items():
        name = prefix + key
        if name in keys or (not prefix and (key in DESCRIPTIVE or (NOTE.search(key) and isinstance(value, str)))):
            continue
        parts = value if isinstance(value, list) else [value]
        if any(k.startswith(f"{name}.") for k in keys) and all(isinstance(part, dict) for part in parts):
            for part in parts:
                yield from _unknown(part, keys, f"{name}.")
        else:
            yield name
