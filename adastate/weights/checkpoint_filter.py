"""What no checkpoint holds, because it lies in files of its own that the config names: frozen networks, encoders, and
the weights that adapters leave as they were."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from adastate.models.adapters import adapted, is_adapter
from adastate.models.video_network import VideoNetwork

Checkpoint = dict[str, Any]
"""Lightning's, with the `state_dict` of a module."""


def strip_frozen(module: nn.Module, checkpoint: Checkpoint, parts: tuple[str, ...]) -> None:
    """Takes out of `checkpoint` what begins with one of `parts`, and what adapters leave as it was.

    Beside the adapters of each layer goes their alpha, which their shapes do not tell.
    """
    frozen = _frozen(module, parts)
    kept = {k: v for k, v in checkpoint["state_dict"].items() if k not in frozen}
    checkpoint["state_dict"] = kept | {k: v for k, v in _alphas(module).items() if _factor(k, kept)}


def restore_frozen(module: nn.Module, checkpoint: Checkpoint, parts: tuple[str, ...]) -> None:
    """Puts back into `checkpoint` what `strip_frozen` took out, as `module` has it from its files.

    Raises:
        ValueError: for a checkpoint of a run with adapters in one without, or the other way round.
    """
    state, own = checkpoint["state_dict"], module.state_dict()
    has, had = any(map(is_adapter, own)), any(map(is_adapter, state))
    others = any(k not in own for k in state)  # where engines keep the weights there are none of them in it
    if (had and not has) or (has and not had and others):
        raise ValueError(
            f"the checkpoint was written {'with' if had else 'without'} lora, and this run is "
            f"{'with' if has else 'without'}: resume as it was, or start from its weights"
        )
    frozen, alphas = _frozen(module, parts), _alphas(module)
    kept = {k: v for k, v in state.items() if k not in alphas}
    checkpoint["state_dict"] = {k: v for k, v in own.items() if k in frozen} | kept


def _frozen(module: nn.Module, parts: tuple[str, ...]) -> set[str]:
    found = {name for name in module.state_dict() if name.startswith(parts)}
    for prefix, net in _with_adapters(module):
        found |= {f"{prefix}{name}" for name in net.state_dict() if not is_adapter(name)}
    return found


def _alphas(module: nn.Module) -> dict[str, Tensor]:
    return {
        f"{prefix}{name}.alpha": torch.tensor(float(scale * layer.r[adapter]))
        for prefix, net in _with_adapters(module)
        for name, layer in adapted(net).items()
        for adapter, scale in layer.scaling.items()
    }


def _factor(alpha: str, state: Checkpoint) -> bool:
    return f"{alpha.removesuffix('alpha')}lora_A.default.weight" in state


def _with_adapters(module: nn.Module) -> list[tuple[str, VideoNetwork]]:
    nets = [(f"{name}.", net) for name, net in module.named_modules() if isinstance(net, VideoNetwork)]
    return [(name, net) for name, net in nets if adapted(net)]
