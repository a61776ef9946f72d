"""Names: the map is one to one, and wrappers leave no trace."""

from __future__ import annotations

from dataclasses import replace

import pytest

from adastate.models.wan import DiT
from adastate.weights.key_maps import BLOCK, OUTSIDE, groups, split_name, to_diffusers, to_wan, unwrap
from tests.support.tiny import SIZE, random_net


def test_the_map_is_one_to_one_over_all_weights(net: DiT) -> None:
    names = list(net.state_dict())
    there = [to_diffusers(name) for name in names]
    assert None not in there and len(set(there)) == len(names)
    assert [to_wan(str(name)) for name in there] == names


def test_the_map_is_diffusers_own(net: DiT) -> None:
    """Its class has these names, all of them and no other."""
    from diffusers import WanTransformer3DModel

    size = net.size
    theirs = WanTransformer3DModel(
        num_attention_heads=size.heads,
        attention_head_dim=size.width // size.heads,
        in_channels=size.channels,
        out_channels=size.channels,
        text_dim=size.text_width,
        freq_dim=size.time_embedding_dim,
        ffn_dim=size.ffn,
        num_layers=size.layers,
    )
    shapes = {to_diffusers(name): tensor.shape for name, tensor in net.state_dict().items()}
    assert shapes == {name: tensor.shape for name, tensor in theirs.state_dict().items()}


def test_every_entry_of_the_map_is_used() -> None:
    net = random_net(replace(SIZE, actions=3))
    modules = {name.removeprefix("blocks.0.").rsplit(".", 1)[0] for name in net.state_dict() if "blocks.1" not in name}
    modules = {m.removesuffix(".modulation") for m in modules} | {"modulation", "head.modulation"}
    assert {*BLOCK, *OUTSIDE} <= modules


@pytest.mark.parametrize(
    ("wan", "diffusers"),
    [
        ("blocks.12.norm3.weight", "blocks.12.norm2.weight"),
        ("blocks.0.modulation", "blocks.0.scale_shift_table"),
        ("head.modulation", "scale_shift_table"),
        ("blocks.3.self_attn.o.lora_A.weight", "blocks.3.attn1.to_out.0.lora_A.weight"),
    ],
)
def test_pairs(wan: str, diffusers: str) -> None:
    assert to_diffusers(wan) == diffusers
    assert to_wan(diffusers) == wan


@pytest.mark.parametrize("name", ["blocks.0.norm1.weight", "blocks.0.attn1.to_qkv.weight", "proj_outer.weight", "x"])
def test_what_is_not_in_the_map_has_no_name(name: str) -> None:
    assert to_wan(name) is None


@pytest.mark.parametrize(
    ("name", "prefix", "rest"),
    [
        ("blocks.0.ffn.0.weight", "", "blocks.0.ffn.0.weight"),
        ("model._fsdp_wrapped_module.blocks.0._fsdp_wrapped_module.ffn.0.bias", "model.", "blocks.0.ffn.0.bias"),
        ("generator_ema.model.head.head.weight", "generator_ema.model.", "head.head.weight"),
        ("_orig_mod.head.modulation", "", "head.modulation"),
        ("base_model.model.blocks.0.ffn.0.base_layer.weight", "base_model.model.", "blocks.0.ffn.0.weight"),
        ("transformer.blocks.4.scale_shift_table", "transformer.", "blocks.4.scale_shift_table"),
    ],
)
def test_prefix_and_name(name: str, prefix: str, rest: str) -> None:
    assert split_name(unwrap(name)) == (prefix, rest)


@pytest.mark.parametrize("name", ["encoder.conv.weight", "head.weight", "blocks.weight", "vace_blocks.0.x", "head"])
def test_what_names_nothing_of_the_network(name: str) -> None:
    assert split_name(name) is None


def test_groups_put_the_largest_first() -> None:
    names = [f"encoder.{i}.weight" for i in range(12)] + ["bias"]
    assert groups(names) == "encoder.*.weight (12), bias"
    assert groups([f"x{i}" for i in range(9)]).endswith("x5 and 3 groups more")
