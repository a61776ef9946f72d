"""Low-rank adapters on linear layers, W + scale B A, as wrapped by peft. Duck-typed: networks do not depend on peft."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn


@torch.no_grad()
def merged(linear: Any) -> tuple[Tensor, Tensor | None]:
    """(weight `[out, in]`, bias `[out]`) that `linear` applies without dropout, adapters added in float32; detached.

    `linear` is an nn.Linear, whose own weights are returned, or one that peft has wrapped.
    """
    base = getattr(linear, "base_layer", linear)
    weight, bias = base.weight.detach(), None if base.bias is None else base.bias.detach()
    if base is linear or linear.merged or linear.disable_adapters:
        return weight, bias
    for name in linear.active_adapters:
        if name in linear.lora_A:
            weight = _added(weight, linear.lora_A[name].weight, linear.lora_B[name].weight, linear.scaling[name])
    return weight, bias


def adapted(net: nn.Module) -> dict[str, Any]:
    """The layers of `net` that have adapters, by their names without adapters."""
    return {name: layer for name, layer in net.named_modules() if hasattr(layer, "base_layer")}


def is_adapter(name: str) -> bool:
    """Whether a parameter is an adapter factor; in a network with adapters only these are trained."""
    return ".lora_A." in name or ".lora_B." in name


@torch.no_grad()
def fold(net: nn.Module, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """`weights`, a complete state dict of `net`, with adapters merged, and the names that it has without adapters."""
    layers = adapted(net)
    found = {k.replace(".base_layer.", "."): v for k, v in weights.items() if not is_adapter(k)}
    for module, layer in layers.items():
        for name, scale in layer.scaling.items():
            down, up = (weights[f"{module}.lora_{factor}.{name}.weight"] for factor in "AB")
            found[f"{module}.weight"] = _added(found[f"{module}.weight"], down, up, scale)
    return found


def _added(weight: Tensor, down: Tensor, up: Tensor, scale: float) -> Tensor:
    return (weight.float() + scale * (up.float() @ down.float())).to(weight.dtype)
