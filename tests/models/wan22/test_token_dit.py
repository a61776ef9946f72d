"""The second backbone: Wan2.2 TI2V's times by token, against diffusers, and through every seam of a backbone."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from adastate.models.backbones import fused
from adastate.models.wan22 import TokenDiT
from adastate.stream import StateCache, StreamSpec
from adastate.stream.rollout import rollout
from adastate.training.prompted_network import PromptedNetwork
from adastate.training.student import Student
from adastate.weights import export, load_network, open_weights, save_weights
from adastate.weights import geometry as geo
from tests.support.rig import rolled_out
from tests.support.tiny import GRID, SIZE, Drawn, normal, random_net

SIZE22 = replace(SIZE, channels=6, backbone="wan22")
SHAPE22 = (SIZE22.channels, *GRID)
TOKENS = (GRID[0] // 2, GRID[1] // 2)


@pytest.fixture(scope="module")
def net22() -> Any:
    return random_net(SIZE22).eval()


@pytest.fixture(scope="module")
def inputs() -> tuple[Tensor, Tensor]:
    return normal(2, 3, *SHAPE22), normal(2, SIZE22.text_tokens, SIZE22.text_width, seed=1)


def at_first_clean(t: float) -> Tensor:
    """As TI2V gives a first picture: its tokens at timestep 0, those of all other frames at t."""
    times = torch.full((2, 3, *TOKENS), t)
    times[:, 0] = 0
    return times


@pytest.mark.parametrize("times", [at_first_clean(700.0), 1000 * torch.rand(2, 3, *TOKENS)], ids=["picture", "any"])
@torch.no_grad()
def test_a_time_for_each_token_is_as_in_diffusers(
    tmp_path: Path, net22: Any, inputs: tuple[Tensor, Tensor], times: Tensor
) -> None:
    diffusers = pytest.importorskip("diffusers", reason="diffusers is not installed: pip install -e '.[wan]'")
    save_weights(net22, tmp_path / "net.safetensors")
    export(open_weights(tmp_path / "net.safetensors"), tmp_path / "out", "diffusers")
    theirs, told = diffusers.WanTransformer3DModel.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not any(told.values()), told
    x, text = inputs
    expected = theirs.eval()(x.transpose(1, 2), times.flatten(1), text, return_dict=False)[0].transpose(1, 2)
    assert float((net22(x, times, text) - expected).abs().max()) < 2e-5
    assert float((net22(x, times.mean((2, 3)).flip(1), text) - expected).abs().max()) > 1e-3, "it sees the times"


@torch.no_grad()
def test_a_time_for_each_frame_is_that_of_its_tokens(net22: Any, inputs: tuple[Tensor, Tensor]) -> None:
    x, text = inputs
    frames = torch.tensor([[0.0, 500.0, 900.0], [100.0, 200.0, 300.0]])
    each = frames[:, :, None, None].expand(-1, -1, *TOKENS)
    assert torch.allclose(net22(x, frames, text), net22(x, each, text), atol=1e-5)
    steered = random_net(replace(SIZE22, actions=3)).eval()
    steered.action_embedding.weight.normal_()
    actions = normal(2, 3, 4, seed=3)
    assert torch.allclose(steered(x, frames, text, actions=actions), steered(x, each, text, actions=actions), atol=1e-5)


@torch.no_grad()
def test_fused_passes_take_a_time_for_each_token(net22: Any, inputs: tuple[Tensor, Tensor]) -> None:
    x, text = inputs
    passes = fused(net22, None, "eager", False)
    assert passes is not None
    cache, keys, times = StateCache(StreamSpec()), net22.text_keys(text), at_first_clean(400.0)
    expected = net22(x, times, keys, memory=cache.view(3, 0))
    found = passes(x, times, cache.view(3, 0), passes.text(keys))
    assert torch.allclose(found, expected, atol=1e-5)


@torch.no_grad()
def test_it_streams_and_comes_back_from_its_files(tmp_path: Path, net22: Any) -> None:
    """Nothing but the folder of the backbone knows that it is another."""
    text = normal(1, SIZE22.text_tokens, SIZE22.text_width, seed=1)

    def streamed(net: Any, fast: bool) -> Tensor:
        prompted = PromptedNetwork(net, text, fast=fast)
        chunks = rollout(prompted, Drawn(1), StateCache(StreamSpec(), layers=SIZE22.layers), 4, SHAPE22)
        return torch.cat([chunk.content for chunk in chunks], 1)

    expected = streamed(net22, fast=False)
    assert torch.allclose(streamed(net22, fast=True), expected, atol=1e-4)
    save_weights(net22, tmp_path / "net.safetensors")
    back = load_network(SIZE22, str(tmp_path / "net.safetensors"))
    assert type(back) is TokenDiT and torch.equal(streamed(back.eval(), fast=False), expected)
    with pytest.raises(ValueError, match="backbone wan22 in the file, wan here"):
        load_network(replace(SIZE22, backbone="wan"), str(tmp_path / "net.safetensors"))


def test_a_student_of_it_learns_a_rollout(net22: Any) -> None:
    student = Student(SIZE22, None, None, StreamSpec(), GRID, rollout_frames=6)  # type: ignore[arg-type]
    text = normal(1, SIZE22.text_tokens, SIZE22.text_width, seed=1)
    torch.nn.init.normal_(student.net.head.head.weight)  # type: ignore[union-attr]
    made = torch.cat([chunk.content for chunk in rolled_out(student, text, Drawn(1), 6)], 1)
    made.square().mean().backward()
    assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in student.net.time_embedding.parameters())  # type: ignore[union-attr, operator]


def test_the_released_size_is_known_by_its_shapes() -> None:
    size = geo.KNOWN["wan22_5b"]
    shown = {k: v for k, v in geo.geometry_as_json(vars(size)).items() if k in geo.SHAPING}
    found, heads_from = geo.complete(shown, None)
    assert geo.size_of(found) == size and heads_from == "those of wan22_5b"
    assert geo.wan_config(size)["model_type"] == "ti2v" and geo.diffusers_config(size)["in_channels"] == 48
