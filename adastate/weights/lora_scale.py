"""How strongly a LoRA is added: alpha, wherever those who write such files leave it."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import yaml

from adastate.runtime import plain_yaml
from adastate.runtime.plain_json import load_json
from adastate.weights.files import WeightsError
from adastate.weights.key_maps import to_diffusers, unwrap
from adastate.weights.sources import ADAPTER_CONFIG, Stored

DIFFUSERS = "lora_adapter_metadata"
"""Entry of a safetensors header: the fields of peft's LoraConfig as JSON, behind the part's name in a pipeline."""

PEFT = "base_model.model."
"""What peft puts before every name of a network that it wraps."""

BASE_CHANGING = ("pissa", "olora", "corda", "loftq", "lora_ga")
"""Ways in which peft begins adapters that change the weights below them, too."""

VARIANTS = {
    "use_dora": "DoRA",
    "use_qalora": "QALoRA",
    "use_bdlora": "BD-LoRA",
    "kasa_config": "KaSA",
    "monteclora_config": "MonteCLoRA",
    "arrow_config": "Arrow",
    "alora_invocation_tokens": "aLoRA",
    "layer_replication": "layer-replicating LoRA",
}
"""Entries of peft's LoraConfig with which an adapter is more than W + scale B A, and what it is called then."""


@dataclass(frozen=True)
class Told:
    """What one place says of all adapters. `alphas` and `ranks` are peft's patterns: ends of names, or regexes."""

    where: str
    alpha: float
    rank: int | None = None
    alphas: Mapping[str, float] = field(default_factory=dict)
    ranks: Mapping[str, int] = field(default_factory=dict)
    root: bool = False

    def of(self, module: str, prefix: str, rank: int) -> tuple[float, float]:
        """(alpha, scale) of the adapter of a module under Wan's name; the scale is alpha / sqrt(rank) with `root`."""
        alpha, there = _matching(self.alphas, module, prefix), _matching(self.ranks, module, prefix) or self.rank
        alpha = self.alpha if alpha is None else alpha
        if there not in (None, rank):
            raise WeightsError(
                f"the LoRA of {module} has rank {rank}, and {self.where} says {there}: it belongs to another file; "
                "remove it, or give alpha with --lora-alpha"
            )
        return alpha, alpha / (math.sqrt(rank) if self.root else rank)


@dataclass(frozen=True)
class Scaling:
    """Who is heard first: `asked`, an adapter's own tensor, what a header or a config tells, and its rank at last."""

    asked: float | None = None
    told: Told | None = None
    prefix: str = ""

    def of(self, module: str, rank: int, own: float | None) -> tuple[float, float, str]:
        """(alpha, scale, where alpha was found) of one adapter, whose own tensor says `own`."""
        for alpha, where in ((self.asked, "as asked for"), (own, "of the file's tensors")):
            if alpha is not None:
                return alpha, alpha / rank, where
        if self.told is not None:
            return *self.told.of(module, self.prefix, rank), f"of {self.told.where}"
        return rank, 1.0, "not found, assumed to equal the rank; --lora-alpha sets another"


def scaling(stored: Stored, prefix: str, asked: float | None) -> Scaling:
    """How the adapters behind `prefix` in a source are scaled.

    Raises:
        WeightsError: one of the places cannot be read, or tells of an adapter that is no LoRA.
    """
    places = (
        _diffusers(stored, prefix), _kohya(stored), _peft(stored.adapter, ADAPTER_CONFIG), _own_run(stored, prefix),
    )  # fmt: skip
    return Scaling(asked, next((told for told in places if told is not None), None), prefix)


def adapter_header(rank: int, alpha: float, targets: list[str]) -> dict[str, str]:
    """The header by which diffusers and `scaling` know an adapter of a pipeline's transformer."""
    config = {"r": rank, "lora_alpha": alpha, "target_modules": targets}
    return {DIFFUSERS: json.dumps({f"transformer.{name}": value for name, value in config.items()})}


def _diffusers(stored: Stored, prefix: str) -> Told | None:
    if DIFFUSERS not in stored.header:
        return None
    try:
        content = dict(load_json(stored.header[DIFFUSERS]))
    except (ValueError, TypeError) as error:
        raise WeightsError(f"{stored.path} has a header whose {DIFFUSERS} cannot be read: copy it again") from error
    for part in dict.fromkeys((prefix, "", "transformer.")):
        found = {name.removeprefix(part): value for name, value in content.items() if name.startswith(part)}
        if told := _peft(found, f"{DIFFUSERS} in its header"):
            return told
    return None


def _kohya(stored: Stored) -> Told | None:
    alpha, rank = (_number(stored.header.get(f"ss_network_{name}")) for name in ("alpha", "dim"))
    # Files whose layers differ say "Dynamic" or "None" there, and have tensors.
    return None if alpha is None else Told("ss_network_alpha in its header", alpha, None if rank is None else int(rank))


def _own_run(stored: Stored, prefix: str) -> Told | None:
    """Of a sharded checkpoint of a run here, which keeps no alpha: from the config.yaml in its folder."""
    path = stored.path / "config.yaml"
    if not path.is_file():
        return None
    try:
        node = plain_yaml.load_yaml(path.read_text(encoding="utf-8"))["model"]["init_args"]
        part = node.get(prefix.split(".")[0])  # student, critic; of a stage with one network, the model itself
        lora = (part["init_args"] if isinstance(part, dict) else node).get("lora")
        if not lora:
            return None
        alpha = lora["rank"] if lora.get("alpha") is None else lora["alpha"]
        return Told("config.yaml in its folder", float(alpha), int(lora["rank"]))
    except (yaml.YAMLError, ValueError, TypeError, KeyError, AttributeError):
        return None  # of something else


def _peft(config: Mapping[str, Any], where: str) -> Told | None:
    """As `LoraConfig` has it; None where it tells no alpha."""
    kind = config.get("peft_type") or "LORA"
    begun = str(config.get("init_lora_weights", "")).lower()
    variant = next((name for entry, name in VARIANTS.items() if config.get(entry)), "")
    if kind != "LORA" or variant:
        raise WeightsError(other_kind(where, variant or str(kind), "says so"))
    if begun.startswith(BASE_CHANGING):
        raise WeightsError(
            f"{where} says init_lora_weights {begun}, which changed the weights below the adapters, too: save it with "
            "peft's path_initial_model_for_weight_conversion, or use the merged weights"
        )
    if config.get("lora_alpha") is None:
        return None
    try:
        return Told(
            where,
            float(config["lora_alpha"]),
            None if config.get("r") is None else int(config["r"]),
            {str(name): float(alpha) for name, alpha in (config.get("alpha_pattern") or {}).items()},
            {str(name): int(rank) for name, rank in (config.get("rank_pattern") or {}).items()},
            bool(config.get("use_rslora")),
        )
    except (ValueError, TypeError, AttributeError) as error:
        raise WeightsError(f"{where} cannot be read ({error}): copy it again") from error


def other_kind(whose: str, kind: str, why: str) -> str:
    """The sentence about an adapter that is no LoRA."""
    return (
        f"{whose} is of a {kind} adapter ({why}), and of adapters only LoRA is known here: merge it into its base with "
        "the tool that made it, and use the merged weights"
    )


def _matching(patterns: Mapping[str, Any], module: str, prefix: str) -> Any:
    """The value of the first pattern that is the end of a module's name, in either naming; None without one."""
    bare = [m for m in (module, to_diffusers(module)) if m]
    names = [f"{prefix.removeprefix(PEFT)}{name}" for name in bare]
    names += [] if prefix.startswith(PEFT) else bare  # diffusers' patterns are below the part's name
    for pattern, value in patterns.items():
        try:
            if any(re.match(rf"(.*\.)?({unwrap(pattern)})$", name) for name in names):
                return value
        except re.error as error:
            raise WeightsError(f"the pattern {pattern!r} of a LoRA cannot be read: {error}") from error
    return None


def _number(text: str | None) -> float | None:
    try:
        value = float(text or "")
    except ValueError:
        return None
    return value if math.isfinite(value) else None
