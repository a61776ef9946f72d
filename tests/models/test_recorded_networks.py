"""The net computes what the reference implementations and diffusers compute, to 2e-5."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from adastate.models import attention
from adastate.models.masks import block_causal
from adastate.parity.networks import masked_flow
from adastate.parity.replay import replay
from adastate.parity.tolerances import LATENT
from tests.parity import failed, load


def far(a: Tensor, b: Tensor) -> float:
    assert a.shape == b.shape
    return float((a - b).abs().max())


def test_bidirectional() -> None:
    found = replay(load("A_bidirectional"))
    assert {"flow", "flow_t_int"} <= {c.output for c in found} and not failed(found)


@torch.no_grad()
def test_keys_and_a_time_per_frame_are_the_same_and_one_timestep_is_seen() -> None:
    f = load("A_bidirectional")
    x, t, net, expected = f.inputs["x"].transpose(1, 2), f.inputs["t"], f.net(), f.outputs["flow"].transpose(1, 2)
    assert far(net(x, t[:, None].expand(-1, 5), net.text_keys(f.inputs["context"])), expected) < LATENT
    assert far(net(x, t + 1, f.inputs["context"]), expected) > 100 * LATENT


@pytest.mark.parametrize("name", ["B_causal_block3", "B_causal_block3_local6", "B_teacher_forcing_block3"])
@pytest.mark.parametrize("path", ["dense mask", "groups of rows"])
def test_block_causal(name: str, path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if path == "groups of rows":
        monkeypatch.setattr(attention, "DENSE_LIMIT", 0)
    found = replay(load(name))
    assert {c.output for c in found} == {"flow", "frame_mask"} and not failed(found)


@torch.no_grad()
def test_a_mask_off_by_one_frame_is_seen() -> None:
    f = load("B_causal_block3_local6")
    assert far(masked_flow(f, f.net(), block_causal(15, 3, 7)), f.outputs["flow"]) > 100 * LATENT


@torch.no_grad()
def test_diffusers() -> None:
    """The published class itself, random weights, through the name map that the fixture brings."""
    import diffusers

    f = load("A_bidirectional")
    net, c = f.net(), f.meta["config"]
    torch.manual_seed(1)
    theirs = diffusers.WanTransformer3DModel(
        patch_size=tuple(c["patch_size"]),
        num_attention_heads=c["num_heads"],
        attention_head_dim=c["dim"] // c["num_heads"],
        in_channels=c["in_dim"],
        out_channels=c["out_dim"],
        text_dim=c["text_dim"],
        freq_dim=c["freq_dim"],
        ffn_dim=c["ffn_dim"],
        num_layers=c["num_layers"],
        cross_attn_norm=c["cross_attn_norm"],
        qk_norm="rms_norm_across_heads",
        eps=c["eps"],
        rope_max_seq_len=1024,
    ).eval()
    state = theirs.state_dict()
    ours = {name: state[there].clone() for name, there in f.meta["diffusers_key_map"].items()}
    assert ours.keys() == net.state_dict().keys()
    net.load_state_dict({k: v.reshape(net.state_dict()[k].shape) for k, v in ours.items()})
    x, t, text = f.inputs["x"], f.inputs["t"], f.inputs["context"]
    expected = theirs(hidden_states=x, timestep=t, encoder_hidden_states=text, return_dict=False)[0]
    assert far(net(x.transpose(1, 2), t, text).transpose(1, 2), expected) < LATENT
