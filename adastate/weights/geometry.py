"""Geometry of a network from its tensors, and the config files in which others write it."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, fields
from typing import Any

import torch

from adastate.models.backbones import build_network
from adastate.models.video_network import Size
from adastate.weights.files import StoredTensor, WeightsError

_WAN: dict[str, Any] = {"text_width": 4096, "text_tokens": 512, "time_embedding_dim": 256}
KNOWN = {
    "tiny": Size(),
    "flight": Size(width=256, layers=6, ffn=1024, channels=32, text_tokens=24),
    "wan_1_3b": Size(width=1536, layers=30, heads=12, ffn=8960, **_WAN),
    "wan_14b": Size(width=5120, layers=40, heads=40, ffn=13824, **_WAN),
    "wan22_5b": Size(width=3072, layers=30, heads=24, ffn=14336, channels=48, backbone="wan22", **_WAN),
}
"""The sizes of conf/sizes/, whatever steers them."""

TI2V_CHANNELS = 48
"""Of the latents of Wan2.2 TI2V's VAE; all other VAEs of Wan have 16."""

MOST_LAYERS = 1000

SHAPING = ("width", "layers", "ffn", "channels", "text_width", "time_embedding_dim", "patch")
"""Fields of Size that show in the tensors' shapes. `heads` shapes none, and yet must be right."""

TELLING = {
    "patch_embedding.weight": 5,
    "blocks.0.ffn.0.weight": 2,
    "text_embedding.0.weight": 2,
    "time_embedding.0.weight": 2,
}
"""Weights that tell the geometry, and how many axes they have."""

ACTIONS = "action_embedding.weight"
"""The layer of a network that can be steered; older weights have none, which is the same as zeros."""

Geometry = dict[str, Any]
"""Fields of Size as JSON has them, as far as they are known."""


def infer(entries: Mapping[str, StoredTensor]) -> Geometry:
    """The SHAPING fields and `actions` from tensors under Wan's names; empty if one that tells them is missing."""
    if any(name not in entries or len(entries[name].shape) != dims for name, dims in TELLING.items()):
        return {}
    patch, ffn, text, time = (entries[name].shape for name in TELLING)
    layers = 1 + max(int(found[1]) for name in entries if (found := re.match(r"blocks\.(\d+)\.", name)))
    values = (patch[0], layers, ffn[0], patch[1], text[1], time[1], list(patch[2:]))
    steered = entries[ACTIONS].shape if ACTIONS in entries else (0, 1)
    return {**dict(zip(SHAPING, values, strict=True)), "actions": steered[-1] - 1}


def from_config(config: Mapping[str, Any]) -> Geometry:
    """What a config.json of Wan2.1 or diffusers says of the geometry."""
    names = {
        "width": "dim", "layers": "num_layers", "heads": "num_heads", "ffn": "ffn_dim", "channels": "in_dim",
        "text_width": "text_dim", "text_tokens": "text_len", "time_embedding_dim": "freq_dim", "patch": "patch_size",
        "eps": "eps",
    }  # fmt: skip
    if "attention_head_dim" in config:
        names |= {"heads": "num_attention_heads", "channels": "in_channels", "rope_max_frames": "rope_max_seq_len"}
    plain = int | float | list
    found = {ours: config[theirs] for ours, theirs in names.items() if isinstance(config.get(theirs), plain)}
    if isinstance(config.get("attention_head_dim"), int) and "heads" in found:
        found["width"] = config["attention_head_dim"] * found["heads"]
    if config.get("model_type") == "ti2v":  # as Wan's own files say; diffusers' say nothing
        found["backbone"] = "wan22"
    return found


def size_name(geometry: Mapping[str, Any]) -> str:
    """The size in conf/sizes/ that has these shapes, or "other"."""
    plain = geometry_as_json(geometry)
    for name, size in KNOWN.items():
        known = geometry_as_json(asdict(size))
        if all(plain.get(k) == known[k] for k in SHAPING) and plain.get("heads") in (None, known["heads"]):
            return name
    return "other"


def is_ti2v(geometry: Mapping[str, Any]) -> bool:
    """Whether the shapes are of Wan2.2 TI2V's kind, of any size: Wan's text, and the latents of its VAE."""
    return geometry.get("text_width") == _WAN["text_width"] and geometry.get("channels") == TI2V_CHANNELS


def ti2v_note(geometry: Mapping[str, Any]) -> tuple[str, ...]:
    """What the report says of a network of Wan2.2 TI2V's kind that is not its 5B, whose VAE and text encoder it has."""
    if not is_ti2v(geometry) or size_name(geometry) != "other":
        return ()
    return (
        f"{TI2V_CHANNELS} latent channels are those of Wan2.2 TI2V, so it is taken as such a network (backbone wan22) "
        "of another size than wan22_5b: give a size of its own, --size FILE, with backbone: wan22",
    )


SAID = "as the source says"


def complete(geometry: Geometry, heads: int | None) -> tuple[Geometry, str]:
    """(the geometry with what no shape shows, where its heads were taken from); without heads if nothing tells."""
    made, whence = _complete(geometry, heads)
    return {f.name: made[f.name] for f in fields(Size) if f.name in made}, whence


def _complete(geometry: Geometry, heads: int | None) -> tuple[Geometry, str]:
    name, wan = size_name(geometry), geometry.get("text_width") == _WAN["text_width"]
    usual = asdict(KNOWN[name]) if name != "other" else _WAN if wan else {}
    told = ["text_tokens", "rope_max_frames", "eps"]
    if usual.get("backbone") not in (None, Size.backbone):  # that of Wan2.1's shapes is left open: others share them
        told.append("backbone")
    elif is_ti2v(geometry):  # of another size than the 5B
        usual, told = {**usual, "backbone": "wan22"}, [*told, "backbone"]
    geometry = {**{k: usual[k] for k in told if k in usual}, **geometry}
    if "heads" in geometry:
        if heads not in (None, geometry["heads"]):
            raise WeightsError(f"--heads is {heads}, but the source itself says {geometry['heads']}: leave it out")
        return geometry, SAID
    if heads is not None:
        return {**geometry, "heads": heads}, "as asked for"
    if name != "other":
        return {**geometry, "heads": KNOWN[name].heads}, f"those of {name}"
    if wan and geometry["width"] % 128 == 0:
        return {**geometry, "heads": geometry["width"] // 128}, "taken as width / 128, as Wan's are"
    return geometry, ""


def size_of(geometry: Mapping[str, Any]) -> Size:
    """The Size of a geometry; an error if the heads are unknown or it is none of this network's."""
    if "heads" not in geometry:
        raise WeightsError("the number of attention heads of these weights is unknown; give --heads")
    values: dict[str, Any] = {f.name: geometry[f.name] for f in fields(Size) if f.name in geometry}
    for name, value in values.items():
        if name == "backbone":
            continue
        numbers = value if name == "patch" and isinstance(value, list | tuple) else [value]
        kind, count = float if name == "eps" else int, 3 if name == "patch" else 1
        least = 0 if name == "actions" else 1e-30
        if len(numbers) != count or not all(isinstance(n, kind) and least <= n < 1e6 for n in numbers):
            raise WeightsError(f"these weights are said to have {name} {value}, which no network has")
    if "patch" in values:
        values["patch"] = tuple(values["patch"])
    if values.get("layers", 0) > MOST_LAYERS:
        raise WeightsError(f"these weights seem to have {values['layers']} layers, which no network has")
    try:
        return Size(**values)
    except ValueError as error:
        raise WeightsError(f"these weights are not for this network: {error}") from error


def shapes(geometry: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """Shape of every weight under Wan's names; nothing is allocated. One head serves where they are unknown."""
    with torch.device("meta"):
        net = build_network(size_of({"heads": 1, **geometry}))
    return {name: tuple(tensor.shape) for name, tensor in net.state_dict().items()}


def geometry_difference(theirs: Mapping[str, Any], ours: Size) -> str:
    """What shapes the weights and differs, in words; empty if nothing. What `theirs` leaves out is not compared."""
    there, here = geometry_as_json(theirs), geometry_as_json(asdict(ours))
    keys = [k for k in here if k in (*SHAPING, "heads", "backbone") and k in there and there[k] != here[k]]
    return ", ".join(f"{k} {there[k]} in the file, {here[k]} here" for k in keys)


def geometry_as_json(geometry: Mapping[str, Any]) -> Geometry:
    """As JSON has it: tuples become lists."""
    return dict(json.loads(json.dumps(dict(geometry))))


def wan_config(size: Size) -> dict[str, Any]:
    """config.json as published with Wan2.1, without text_dim and patch_size unless they differ from Wan's."""
    config = {
        "_class_name": "WanModel",
        "dim": size.width,
        "eps": size.eps,
        "ffn_dim": size.ffn,
        "freq_dim": size.time_embedding_dim,
        "in_dim": size.channels,
        "model_type": "ti2v" if size.backbone == "wan22" else "t2v",
        "num_heads": size.heads,
        "num_layers": size.layers,
        "out_dim": size.channels,
        "text_len": size.text_tokens,
    }
    if size.text_width != _WAN["text_width"]:
        config["text_dim"] = size.text_width
    if size.patch != (1, 2, 2):
        config["patch_size"] = list(size.patch)
    return config


def diffusers_config(size: Size) -> dict[str, Any]:
    """config.json of diffusers' WanTransformer3DModel."""
    return {
        "_class_name": "WanTransformer3DModel",
        "added_kv_proj_dim": None,
        "attention_head_dim": size.width // size.heads,
        "cross_attn_norm": True,
        "eps": size.eps,
        "ffn_dim": size.ffn,
        "freq_dim": size.time_embedding_dim,
        "image_dim": None,
        "in_channels": size.channels,
        "num_attention_heads": size.heads,
        "num_layers": size.layers,
        "out_channels": size.channels,
        "patch_size": list(size.patch),
        "pos_embed_seq_len": None,
        "qk_norm": "rms_norm_across_heads",
        "rope_max_seq_len": size.rope_max_frames,
        "text_dim": size.text_width,
    }
