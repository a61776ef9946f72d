"""Checkpoints as others write them, of a tiny random net."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from adastate.models.wan import DiT
from adastate.weights import NetworkWeights
from adastate.weights.key_maps import to_diffusers

State = dict[str, Tensor]


def state(net: DiT) -> State:
    return {name: tensor.clone() for name, tensor in net.state_dict().items()}


def same(checkpoint: NetworkWeights, net: DiT) -> None:
    """Every weight of `net`, exactly."""
    own = net.state_dict()
    assert checkpoint.entries.keys() == own.keys()
    for name, entry in checkpoint.entries.items():
        assert torch.equal(entry.read(), own[name]), name
        assert entry.shape == tuple(own[name].shape) and entry.dtype == own[name].dtype, name


def prefixed(weights: State, prefix: str) -> State:
    return {f"{prefix}{name}": tensor for name, tensor in weights.items()}


def wrapped(weights: State) -> State:
    """Names as FSDP and torch.compile leave them: at the root, at each block, and within."""
    out = {}
    for name, tensor in weights.items():
        name = name.replace("blocks.0.", "blocks.0._fsdp_wrapped_module.").replace("ffn.0.", "ffn._orig_mod.0.")
        name = name.replace("cross_attn.", "module.cross_attn._checkpoint_wrapped_module.")
        out[f"model._fsdp_wrapped_module.{name}"] = tensor
    return out


def diffusers_names(weights: State) -> State:
    return {str(to_diffusers(name)): tensor for name, tensor in weights.items()}


def lora(net: DiT, rank: int = 3, seed: int = 4) -> dict[str, tuple[Tensor, Tensor]]:
    """(A, B) for every linear layer of the blocks, as LongLive has them."""
    g = torch.Generator().manual_seed(seed)
    made = {}
    for name, tensor in net.state_dict().items():
        if name.startswith("blocks.") and name.endswith(".weight") and tensor.dim() == 2:
            out, into = tensor.shape
            module = name.removesuffix(".weight")
            made[module] = (torch.randn(rank, into, generator=g), torch.randn(out, rank, generator=g))
    return made


def peft(factors: dict[str, tuple[Tensor, Tensor]], prefix: str = "base_model.model.", adapter: str = "") -> State:
    out = {}
    for module, (a, b) in factors.items():
        out[f"{prefix}{module}.lora_A.{adapter}weight"] = a
        out[f"{prefix}{module}.lora_B.{adapter}weight"] = b
    return out


def folder(path: Path, weights: State, config: dict[str, Any] | None, shards: int = 1) -> Path:
    """A folder of safetensors as Wan2.1 and diffusers lay it out."""
    path.mkdir(parents=True, exist_ok=True)
    if config is not None:
        (path / "config.json").write_text(json.dumps(config))
    stem = "diffusion_pytorch_model"
    if shards == 1:
        save_file(weights, path / f"{stem}.safetensors")
        return path
    places = {name: f"{stem}-{i % shards + 1:05}-of-{shards:05}.safetensors" for i, name in enumerate(weights)}
    for file in set(places.values()):
        save_file({name: weights[name] for name, there in places.items() if there == file}, path / file)
    (path / f"{stem}.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": places}))
    return path
