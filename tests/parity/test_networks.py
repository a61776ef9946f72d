"""Replays of forwards: variants that no fixture here has, made from one that has a net."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from adastate.parity.replay import replay
from tests.parity import failed, load, write
from tests.support.tiny import normal


@torch.no_grad()
def test_probes_are_compared(tmp_path: Path) -> None:
    f = load("A_bidirectional")
    net, x, t, text = f.net(), f.inputs["x"].transpose(1, 2), f.inputs["t"], f.inputs["context"]
    inside: list[torch.Tensor] = []
    for module in (net.blocks[1], net.blocks[0].cross_attn.o):
        module.register_forward_hook(lambda m, a, out: inside.append(out))
    net(x, t, text)
    tokens, _ = net._embed(x, None, None, None)
    time = net._time(t, x.shape[:2])
    probes = {
        "block0_cross_attn_out": inside[0][:1],
        "block1_out": inside[1][:1],
        "patch_embed_sample0": tokens[0],
        "text_embed": net.text_embedding(text),
        "time_embed_e": time[:, 0],
        "time_proj_e0": net.time_projection(time)[:, 0],
    }
    found = replay(write(f, tmp_path / "a", outputs={**f.outputs, **probes}))
    assert {c.what for c in found} == {"flow", "flow_t_int", *probes} and not failed(found)
    for name, value in probes.items():
        wrong = write(f, tmp_path / "b", outputs={**f.outputs, **probes, name: value + 1e-3})
        assert [c.what for c in failed(replay(wrong))] == [name]


@torch.no_grad()
def test_an_independent_first_frame_makes_blocks_of_1_3_3(tmp_path: Path) -> None:
    f = load("B_causal_block3")
    x, t = normal(2, 7, 16, 8, 12), torch.linspace(0, 1000, 14).reshape(2, 7)
    block, local = [0, 1, 1, 1, 2, 2, 2], 4
    end = [1, 4, 4, 4, 7, 7, 7]
    mask = tuple(tuple(block[j] <= block[i] and j >= end[i] - local for j in range(7)) for i in range(7))
    flow = f.net()(x, t, f.inputs["context"], visible=mask).transpose(1, 2)
    made = write(
        f,
        tmp_path / "a",
        {"independent_first_frame": True, "local_attn_size": local, "latent_hw": [8, 12], "frame_seqlen": 24},
        {"x": x.transpose(1, 2), "t": t},
        {"flow": flow, "frame_mask": torch.tensor(mask).float()},
    )
    assert not failed(replay(made))
    other = write(made, tmp_path / "b", {"local_attn_size": -1})
    assert {c.what for c in failed(replay(other))} == {"flow", "frame_mask"}


@torch.no_grad()
def test_the_clean_half_has_aug_t(tmp_path: Path) -> None:
    f = load("B_teacher_forcing_block3")
    zero = write(f, tmp_path / "zero", inputs={"aug_t": torch.zeros_like(f.inputs["t"])})
    assert not failed(replay(zero))
    aug = write(f, tmp_path / "aug", {"local_attn_size": 3}, {"aug_t": torch.full_like(f.inputs["t"], 50.0)})
    assert [c.what for c in failed(replay(aug))] == ["flow"], "the window does not enter this mask"
    with pytest.raises(ValueError, match="clean_x and aug_t need teacher_forcing"):
        replay(write(f, tmp_path / "off", {"teacher_forcing": False}))
