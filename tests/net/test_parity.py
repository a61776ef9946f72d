"""The net computes what the reference implementations compute, to 2e-5."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from adastate.net import attention
from adastate.net.masks import block_causal, teacher_forcing
from adastate.types import FrameMask
from tests.parity import Fixture, load

TOLERANCE = 2e-5


def far(a: Tensor, b: Tensor) -> float:
    assert a.shape == b.shape
    return float((a - b).abs().max())


@pytest.mark.parametrize(("t", "flow"), [("t", "flow"), ("t_int", "flow_t_int")])
@torch.no_grad()
def test_bidirectional(t: str, flow: str) -> None:
    f = load("A_bidirectional")
    x, net = f.inputs["x"].transpose(1, 2), f.net()
    expected = f.outputs[flow].transpose(1, 2)
    assert far(net(x, f.inputs[t], f.inputs["context"]), expected) < TOLERANCE
    keys = net.text_keys(f.inputs["context"])
    assert far(net(x, f.inputs[t][:, None].expand(-1, 5), keys), expected) < TOLERANCE, (
        "keys and a time per frame are the same"
    )
    assert far(net(x, f.inputs[t] + 1, f.inputs["context"]), expected) > 100 * TOLERANCE, "the check sees one timestep"


def masked(f: Fixture) -> tuple[FrameMask, int]:
    """Our mask for a block-causal fixture, and its copies of the clip."""
    frames, block, local = f.inputs["x"].shape[2], f.meta["num_frame_per_block"], f.meta["local_attn_size"]
    if f.meta["teacher_forcing"]:
        return teacher_forcing(frames, block), 2
    return block_causal(frames, block, None if local < 0 else local), 1


def forward(f: Fixture, mask: FrameMask, copies: int) -> Tensor:
    x, t = f.inputs["x"].transpose(1, 2), f.inputs["t"]
    frames = x.shape[1]
    if copies == 2:
        x, t = torch.cat([f.inputs["clean_x"].transpose(1, 2), x], 1), torch.cat([torch.zeros_like(t), t], 1)
    flow = f.net()(x, t, f.inputs["context"], positions=[*range(frames)] * copies, visible=mask)
    return flow[:, -frames:].transpose(1, 2)


CAUSAL = ("B_causal_block3", "B_causal_block3_local6", "B_teacher_forcing_block3")


@pytest.mark.parametrize("name", CAUSAL)
@pytest.mark.parametrize("path", ["dense mask", "groups of rows"])
@torch.no_grad()
def test_block_causal(name: str, path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if path == "groups of rows":
        monkeypatch.setattr(attention, "DENSE_LIMIT", 0)
    f = load(name)
    mask, copies = masked(f)
    assert far(forward(f, mask, copies), f.outputs["flow"]) < TOLERANCE


@pytest.mark.parametrize("name", CAUSAL)
def test_the_mask_is_the_reference_s(name: str) -> None:
    """A fraction below 1 in the fixture is the reference's diagonal of tokens, where no frame sees a frame."""
    f = load(name)
    assert torch.equal(torch.tensor(masked(f)[0]), f.outputs["frame_mask"] > 0.5)


@torch.no_grad()
def test_a_mask_off_by_one_frame_is_seen() -> None:
    f = load("B_causal_block3_local6")
    assert far(forward(f, block_causal(15, 3, 7), 1), f.outputs["flow"]) > 100 * TOLERANCE


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
    assert far(net(x.transpose(1, 2), t, text).transpose(1, 2), expected) < TOLERANCE
