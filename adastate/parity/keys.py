"""Which keys of a fixture its replay heeds. Any other one that could change the run is named, never passed over."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from adastate.parity.fixture import Fixture
from adastate.parity.tolerances import Compared


def names(text: str) -> frozenset[str]:
    return frozenset(text.split())


DESCRIPTIVE = names(
    "fixture name description repo commit source version seed dtype device system config weights inputs_file "
    "tensors torch layout semantics note calls call_note noise_note frame_mask_note probe_notes grad_note "
    "noise_order_window_block_step valid_text latent_hw frame_seqlen grid batch seconds tol tolerance tolerances "
    "checks warp warped kv_cache_tokens max_attention_tokens diffusers_max_abs_diff diffusers_key_map "
    "diffusers_config flex_vs_dense_sdpa score_call_order params_without_grad"
)
"""Keys that tell about a run, or follow from its tensors; `config` and `weights` are Fixture's."""

REMARK = re.compile(r"^note|_notes?$|_diff$|_std$|_norms?$|_seconds$")
PROSE_WORDS = 4
"""So many words are a sentence about the run, not a setting."""


@dataclass(frozen=True)
class Replay:
    """How one system is replayed.

    Attributes:
        run: replays a fixture and compares each of its outputs.
        keys: of meta.json that `run` heeds, besides DESCRIPTIVE; `a.b` for key b of the dict a.
        inputs: pattern of the names of the input tensors that it reads.
    """

    run: Callable[[Fixture], list[Compared]]
    keys: frozenset[str] = field(default_factory=frozenset)
    inputs: str = ""


def unknown_keys(fixture: Fixture, replay: Replay) -> tuple[list[str], list[str]]:
    """What `replay` does not heed: (settings and names of inputs, figures).

    A setting is a number without fraction, a flag or a word: it may change the run. A figure (a fraction, a list, a
    table) may, too, or just be measured; the outputs tell.
    """
    strange = [f"input {name}" for name in fixture.inputs if not re.fullmatch(replay.inputs, name)]
    settings: list[str] = []
    figures: list[str] = []
    for name, value in sorted(_unknown(fixture.meta, replay.keys)):
        (settings if isinstance(value, int | str) else figures).append(name)
    return settings + sorted(strange), figures


def _unknown(settings: dict[str, Any], keys: frozenset[str], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in settings.items():
        name = prefix + key
        if name in keys or (not prefix and key in DESCRIPTIVE) or REMARK.search(key) or _says_nothing(value):
            continue
        if isinstance(value, dict) and any(k.startswith(f"{name}.") for k in keys):
            yield from _unknown(value, keys, f"{name}.")
        else:
            yield name, value


def _says_nothing(value: Any) -> bool:
    """Off, empty, or a sentence."""
    return not value or (isinstance(value, str) and len(value.split()) >= PROSE_WORDS)
