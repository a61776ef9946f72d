"""Low-rank adapters: W + (alpha / rank) B A, merged into their base."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from adastate.weights.files import StoredTensor, WeightsError
from adastate.weights.key_maps import LORA, OTHER_ADAPTERS
from adastate.weights.lora_scale import Scaling, other_kind

MOST_SHOWN = 4
"""Kinds of adapters that a note counts up."""


@dataclass(frozen=True)
class Adapter:
    """The factors of one layer: `down` is A [r, in], `up` is B [out, r]; `alpha` where a tensor of its own tells."""

    down: StoredTensor
    up: StoredTensor
    alpha: float | None

    @property
    def rank(self) -> int:
        return self.down.shape[0]


def adapters(entries: Mapping[str, StoredTensor]) -> tuple[dict[str, Adapter], dict[str, StoredTensor]]:
    """(adapters by the module they change, the other entries) of entries under Wan's names."""
    factors: dict[str, dict[str, StoredTensor]] = {}
    rest: dict[str, StoredTensor] = {}
    for name, entry in entries.items():
        if found := LORA.match(name):
            kind = {"A": "down", "B": "up"}.get(found["factor"], found["factor"])
            factors.setdefault(found["module"], {})[kind] = entry
        else:
            rest[name] = entry
    made = {}
    for module, pair in factors.items():
        if pair.keys() != {"down", "up"}:
            raise WeightsError(f"the LoRA of {module} is a half: it has {', '.join(pair)} and lacks the other factor")
        down, up = pair["down"].shape, pair["up"].shape
        if len(down) != 2 or len(up) != 2 or not down[0]:
            raise WeightsError(
                f"the LoRA of {module} has factors {down} and {up}; only those of linear layers are known"
            )
        alpha = rest.pop(f"{module}.alpha", None)
        if alpha is not None and alpha.count != 1:
            raise WeightsError(f"the alpha of {module} is {alpha.shape} and no number")
        made[module] = Adapter(pair["down"], pair["up"], None if alpha is None else float(alpha.read()))
        if alpha is not None and not math.isfinite(made[module].alpha or 0.0):
            raise WeightsError(f"the alpha of {module} is {made[module].alpha}: give another with --lora-alpha")
    return made, rest


def refuse_others(names: Iterable[str], path: object) -> None:
    """Refuses by name the adapters that are no LoRA, which other names for their tensors tell."""
    for name in names:
        for kind, pattern in OTHER_ADAPTERS.items():
            if pattern.search(name):
                raise WeightsError(other_kind(str(path), kind, f"it has {name}"))


def merge_adapters(
    base: Mapping[str, StoredTensor], made: Mapping[str, Adapter], scaling: Scaling
) -> tuple[dict[str, StoredTensor], str]:
    """(base with the adapters merged in float32 as it is read, what was done in words)."""
    merged = dict(base)
    kinds: dict[str, None] = {}
    places: dict[str, None] = {}
    for module, adapter in made.items():
        name = f"{module}.weight"
        shape = (adapter.up.shape[0], adapter.down.shape[1])
        if name not in base:
            raise WeightsError(f"the LoRA changes {module}, which its base has not; give the base it was made for")
        if adapter.up.shape[1] != adapter.rank or base[name].shape != shape:
            raise WeightsError(
                f"the LoRA of {module} is {shape} of rank {adapter.rank}, the weight in its base {base[name].shape}; "
                "give the base it was made for"
            )
        alpha, scale, where = scaling.of(module, adapter.rank, adapter.alpha)
        kinds[f"rank {adapter.rank}, alpha {alpha:g}, scale {scale:g}"] = places[where] = None
        merged[name] = _merged(base[name], adapter, scale)
    told = "; ".join(sorted(kinds)[:MOST_SHOWN])
    more = f" and {len(kinds) - MOST_SHOWN} kinds more" if len(kinds) > MOST_SHOWN else ""
    return merged, f"LoRA of {len(made)} layers merged: {told}{more} (alpha {', '.join(places)})"


def _merged(weight: StoredTensor, adapter: Adapter, scale: float) -> StoredTensor:
    def read() -> Tensor:
        return weight.read().float() + adapter.up.read().float() @ adapter.down.read().float() * scale

    return StoredTensor(weight.shape, torch.float32, read)
