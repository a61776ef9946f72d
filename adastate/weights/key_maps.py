"""Names of the weights: Wan's own, which are ours, diffusers', and what wrappers put before or between them."""

from __future__ import annotations

import re

WRAPPERS = frozenset(
    {"_fsdp_wrapped_module", "_checkpoint_wrapped_module", "_orig_mod", "_forward_module", "module", "base_layer"}
)
"""Parts of a name that FSDP, activation checkpointing, torch.compile, DeepSpeed, DDP and PEFT add, wherever."""

ROOTS = frozenset(
    {"patch_embedding", "text_embedding", "time_embedding", "time_projection", "action_embedding"}
    | {"condition_embedder", "scale_shift_table", "proj_out", "img_emb"}
)

_KINDS = (("self_attn", "attn1"), ("cross_attn", "attn2"))
BLOCK = {
    **{f"{ours}.{n}": f"{theirs}.to_{n}" for ours, theirs in _KINDS for n in "qkv"},
    **{f"{ours}.o": f"{theirs}.to_out.0" for ours, theirs in _KINDS},
    **{f"{ours}.norm_{n}": f"{theirs}.norm_{n}" for ours, theirs in _KINDS for n in "qk"},
    "norm3": "norm2",  # Wan counts the norms as they are made, diffusers as they are used
    "ffn.0": "ffn.net.0.proj",
    "ffn.2": "ffn.net.2",
    "modulation": "scale_shift_table",
}
"""Modules of one block: Wan's name -> diffusers'."""

OUTSIDE = {
    "patch_embedding": "patch_embedding",
    "text_embedding.0": "condition_embedder.text_embedder.linear_1",
    "text_embedding.2": "condition_embedder.text_embedder.linear_2",
    "time_embedding.0": "condition_embedder.time_embedder.linear_1",
    "time_embedding.2": "condition_embedder.time_embedder.linear_2",
    "time_projection.1": "condition_embedder.time_proj",
    "head.head": "proj_out",
    "head.modulation": "scale_shift_table",
    "action_embedding": "condition_embedder.action_embedder",
}
"""Modules outside the blocks: Wan's name -> diffusers'. Neither knows the last, which is ours: their loaders warn of it
and leave it out, and what they then have cannot be steered."""

_INSIDE = {
    name.replace(".", "_"): name
    for name in (
        *BLOCK,
        *BLOCK.values(),
        "cross_attn.k_img",
        "cross_attn.v_img",
        "attn2.add_k_proj",
        "attn2.add_v_proj",
    )
}
_AROUND = {name.replace(".", "_"): name for name in (*OUTSIDE, *OUTSIDE.values())}
"""Modules as kohya's tools write them, in either naming, in a block and outside of any."""

NETWORK = re.compile(r"blocks\.\d+\.(?:self_attn\.q|attn1\.to_q)\.weight$")
"""What every network of this kind has, and the other parts of a pipeline have not."""

LORA = re.compile(r"^(?P<module>.+)\.lora_(?P<factor>A|B|down|up)(?:\.\w+)?\.weight$")
"""PEFT's names (with an adapter's name or not), and the older `lora_down`, `lora_up`."""

OTHER_ADAPTERS = {
    "DoRA": re.compile(r"\.(?:dora_scale|lora_magnitude_vector)\b"),
    "LoHa": re.compile(r"\.hada_\w+"),
    "LoKr": re.compile(r"\.lokr_\w+"),
    "LoCon": re.compile(r"\.lora_mid\b"),
    "OFT": re.compile(r"\.b?oft_\w+"),
    "IA3": re.compile(r"\.ia3_\w+"),
    "VeRA": re.compile(r"\.vera_lambda_\w+"),
}
"""Names of tensors that tell adapters that are no LoRA, as PEFT and LyCORIS write them."""

PICTURES = re.compile(r"\b(?:img_emb|k_img|v_img|norm_k_img|image_embedder|add_k_proj|add_v_proj|norm_added_k)\b")
"""What only Wan's image-to-video networks have, in either naming."""


def unwrap(name: str) -> str:
    """The name without what wrappers added: `model._fsdp_wrapped_module.blocks.0.x` -> `model.blocks.0.x`."""
    return ".".join(part for part in name.split(".") if part not in WRAPPERS)


def dotted(name: str) -> str:
    """kohya's and LyCORIS' names with dots: `lora_unet_blocks_0_ffn_2.alpha` -> `lora_unet.blocks.0.ffn.2.alpha`.

    A module that is not of the network keeps its underscores; what no such tool wrote is given back as it is.
    """
    found = re.match(r"((?:lora_unet|lora_transformer|lycoris))_+(blocks_\d+_)?([^.]+)\.(.+)$", name)
    if not found:
        return name
    prefix, block, module, rest = found.groups()
    return f"{prefix}.{(block or '').replace('_', '.')}{(_INSIDE if block else _AROUND).get(module, module)}.{rest}"


def unwrapped_name(name: str) -> str:
    """A name with dots and without wrappers."""
    return dotted(unwrap(name))


def split_name(name: str) -> tuple[str, str] | None:
    """(prefix with its dot, name in the network) of an unwrapped name; None if it names nothing of the network."""
    parts = name.split(".")
    for i, (part, then) in enumerate(zip(parts, [*parts[1:], ""], strict=True)):
        if (
            part in ROOTS
            or (part == "blocks" and then.isdecimal())
            or (part == "head" and then in ("head", "modulation"))
        ):
            return "".join(f"{p}." for p in parts[:i]), ".".join(parts[i:])
    return None


def to_diffusers(name: str) -> str | None:
    """diffusers' name of a weight under Wan's; None if there is none."""
    return _translate(name, BLOCK, OUTSIDE)


def to_wan(name: str) -> str | None:
    """Wan's name of a weight under diffusers'; None if there is none."""
    return _translate(name, _turned(BLOCK), _turned(OUTSIDE))


def groups(names: list[str], most: int = 6) -> str:
    """A few groups of alike names, largest first: "encoder.*.conv (12), ..."."""
    count: dict[str, int] = {}
    for name in names:
        parts = ["*" if p.isdigit() else p for p in name.split(".")]
        key = ".".join(parts[:5]) + (".*" if len(parts) > 5 else "")
        count[key] = count.get(key, 0) + 1
    ranked = sorted(count.items(), key=lambda item: -item[1])
    shown = [f"{key} ({n})" if n > 1 else key for key, n in ranked[:most]]
    return ", ".join(shown) + (f" and {len(ranked) - most} groups more" if len(ranked) > most else "")


def _turned(table: dict[str, str]) -> dict[str, str]:
    return {theirs: ours for ours, theirs in table.items()}


def _translate(name: str, block: dict[str, str], outside: dict[str, str]) -> str | None:
    place = re.match(r"blocks\.\d+\.", name)
    head, table = (place.group(), block) if place else ("", outside)
    rest = name.removeprefix(head)
    for module, there in table.items():
        if rest == module or rest.startswith(f"{module}."):
            return f"{head}{there}{rest.removeprefix(module)}"
    return None
