"""Low-rank adapters: W + (alpha / rank) B A, merged into their base."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from adastate.weights.files import StoredTensor, WeightsError
from adastate.weights.key_maps import LORA


@dataclass(frozen=True)
class Adapter:
    """The factors of one layer: `down` is A [r, in], `up` is B [out, r]."""

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
    return made, rest


def merge(
    base: Mapping[str, StoredTensor], made: Mapping[str, Adapter], alpha: float | None
) -> tuple[dict[str, StoredTensor], str]:
    """(base with the adapters merged in float32 as it is read, what was done in words).

    `alpha` overrides what the file says; without either it is the rank, so that the scale is 1.
    """
    merged = dict(base)
    scales = set()
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
        used = alpha if alpha is not None else adapter.alpha if adapter.alpha is not None else adapter.rank
        scales.add((adapter.rank, float(used), used / adapter.rank))
        merged[name] = _merged(base[name], adapter, used / adapter.rank)
    whence = "as asked for" if alpha is not None else "the file's"
    if alpha is None and any(a.alpha is None for a in made.values()):
        whence = "not in the file, taken as the rank; --lora-alpha sets another"
    told = "; ".join(f"rank {rank}, alpha {used:g}, scale {scale:g}" for rank, used, scale in sorted(scales))
    return merged, f"LoRA of {len(made)} layers merged: {told} (alpha {whence})"


def _merged(weight: StoredTensor, adapter: Adapter, scale: float) -> StoredTensor:
    def read() -> Tensor:
        return weight.read().float() + adapter.up.read().float() @ adapter.down.read().float() * scale

    return StoredTensor(weight.shape, torch.float32, read)
