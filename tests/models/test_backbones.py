"""Laws of every backbone of the table: one set of weights is teacher, training forward and stream."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch

from adastate.models.backbones import BACKBONES, backbone_named, build_network, fused
from adastate.models.masks import block_causal, teacher_forcing
from adastate.models.video_network import Backbone, VideoNetwork
from adastate.models.wan import DiT
from adastate.stream.cache import StateCache
from adastate.stream.teacher_forcing import teacher_forced_chunks
from adastate.weights import load_weights, save_weights
from tests.support.tiny import SHAPE, SIZE, NetStudent, normal, random_net, spec


@pytest.fixture(params=BACKBONES)
def net(request: pytest.FixtureRequest) -> VideoNetwork:
    return random_net(dataclasses.replace(SIZE, backbone=request.param))


TEXT = normal(2, SIZE.text_tokens, SIZE.text_width, seed=3)


@torch.no_grad()
def test_a_flow_has_the_latents_shape_and_depends_on_time_prompt_and_every_frame(net: VideoNetwork) -> None:
    x, t = normal(2, 4, *SHAPE), torch.full((2,), 500.0)
    flow = net(x, t, TEXT)
    assert flow.shape == x.shape and flow.dtype == x.dtype
    moved = x.clone()
    moved[:, 0] += 1
    for other in (net(x, t + 300, TEXT), net(x, t, TEXT.flip(0)), net(moved, t, TEXT)):
        assert not torch.allclose(flow[:, -1], other[:, -1], atol=1e-4)
    assert torch.equal(flow, net(x, t, net.text_keys(TEXT)))
    assert torch.allclose(flow, net(x, t, TEXT, positions=range(7, 11)), atol=1e-5), "time is relative"


@torch.no_grad()
def test_a_mask_hides_the_future(net: VideoNetwork) -> None:
    x, t, mask = normal(2, 4, *SHAPE), torch.full((2, 4), 500.0), block_causal(4, 2)
    changed = x.clone()
    changed[:, 2:] += 1
    before, after = (net(v, t, TEXT, visible=mask) for v in (x, changed))
    assert torch.equal(before[:, :2], after[:, :2]) and not torch.allclose(before[:, 2:], after[:, 2:], atol=1e-3)


@pytest.mark.parametrize("past", [None, 2])
@torch.no_grad()
def test_a_stream_is_the_masked_forward(net: VideoNetwork, past: int | None) -> None:
    s = spec(anchor="none", state_frames=0, chunk_frames=2, past_frames=past, position="absolute")
    clean, noisy = normal(1, 6, *SHAPE, seed=1), normal(1, 6, *SHAPE, seed=2)
    t = torch.tensor([[900.0, 500, 20]]).repeat_interleave(2, 1)
    student = NetStudent(net)
    chunks = teacher_forced_chunks(student, StateCache(s), noisy.split(2, 1), clean.split(2, 1), t.split(2, 1))
    got = torch.cat(list(chunks), 1)
    times, both = torch.cat([torch.zeros_like(t), t], 1), torch.cat([clean, noisy], 1)
    mask = teacher_forcing(6, 2, past)
    expected = net(both, times, student.text, positions=[*range(6)] * 2, visible=mask)[:, 6:]
    assert torch.allclose(got, expected, atol=2e-5)


def test_checkpointing_changes_no_gradient(net: VideoNetwork) -> None:
    x, t = normal(1, 3, *SHAPE), torch.tensor([500.0])
    found = []
    for net.checkpointing in (False, True):
        net.zero_grad()
        net(x, t, TEXT[:1]).square().mean().backward()
        found.append([p.grad.clone() for p in net.parameters() if p.grad is not None])
    assert found[0] and all(map(torch.equal, *found))


def test_weights_come_back_bit_by_bit(net: VideoNetwork, tmp_path: Path) -> None:
    save_weights(net, tmp_path / "net.safetensors")
    again = build_network(net.size)
    load_weights(again, str(tmp_path / "net.safetensors"))
    assert type(again) is type(net)
    for a, b in zip(net.state_dict().values(), again.state_dict().values(), strict=True):
        assert torch.equal(a, b)


@torch.no_grad()
def test_fused_passes_equal_the_plain_ones(net: VideoNetwork) -> None:
    passes = fused(net, None, "eager", False)
    if passes is None:
        assert backbone_named(net.size.backbone).fused is None
        return
    s = spec(chunk_frames=2)
    x, t = normal(1, 2 + s.state_frames, *SHAPE), torch.full((1, 2 + s.state_frames), 500.0)
    keys = net.text_keys(TEXT[:1])
    plain, quick = StateCache(s), StateCache(s)
    expected = net(x, t, keys, memory=plain.view(2, s.state_frames))
    assert torch.allclose(passes(x, t, quick.view(2, s.state_frames), passes.text(keys)), expected, atol=1e-5)


MINE = Backbone(DiT)


def test_one_of_the_user_s_own_needs_no_row() -> None:
    assert backbone_named(f"{__name__}.MINE") is MINE
    assert isinstance(build_network(dataclasses.replace(SIZE, backbone=f"{__name__}.MINE")), DiT)


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("wann", "size cannot have backbone 'wann'; did you mean 'wan'?"),
        ("mamba", "size cannot have backbone 'mamba'; it takes wan, wan22, or the path of your own Backbone"),
        ("nowhere.MINE", "there is no such Backbone"),
        (f"{__name__}.TEXT", "is a Tensor and no Backbone"),
    ],
)
def test_one_that_is_not_there(name: str, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence.replace("?", r"\?")):
        build_network(dataclasses.replace(SIZE, backbone=name))
