"""The transformer: laws of one forward, and errors that name both numbers."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from adastate.models.masks import block_causal, teacher_forcing
from adastate.models.video_network import Size
from adastate.models.wan import DiT
from tests.support.tiny import GRID, SIZE, normal, random_net

X = normal(2, 4, SIZE.channels, *GRID, seed=1)
TEXT = normal(2, SIZE.text_tokens, SIZE.text_width, seed=2)
T = torch.tensor([700.0, 30.0])


@torch.no_grad()
def test_the_flow_has_the_latents_shape_and_dtype(net: DiT) -> None:
    flow = net(X, T, TEXT)
    assert flow.shape == X.shape and flow.dtype == X.dtype
    assert flow.std() > 0.1, "the net of the tests is not a constant"


@torch.no_grad()
def test_a_fresh_net_predicts_zero() -> None:
    assert DiT(SIZE)(X, T, TEXT).abs().max() == 0


@torch.no_grad()
def test_only_distances_in_time_matter(net: DiT) -> None:
    here = net(X, T, TEXT, positions=[0, 1, 2, 3])
    assert torch.allclose(here, net(X, T, TEXT), atol=1e-6)
    assert torch.allclose(here, net(X, T, TEXT, positions=[500, 501, 502, 503]), atol=2e-5)
    assert not torch.allclose(here, net(X, T, TEXT, positions=[0, 1, 2, 9]), atol=1e-3)


@torch.no_grad()
def test_frames_may_come_in_any_order(net: DiT) -> None:
    """Position is told, not counted: permuting frames with their positions and times permutes the flow."""
    order = [2, 0, 3, 1]
    t = torch.tensor([[1.0, 20.0, 300.0, 1000.0]]).expand(2, -1)
    mixed = net(X[:, order], t[:, order], TEXT, positions=order)
    assert torch.allclose(mixed, net(X, t, TEXT)[:, order], atol=1e-5)


@torch.no_grad()
def test_a_causal_mask_hides_the_future(net: DiT) -> None:
    mask = block_causal(4, 2)
    changed = X.clone()
    changed[:, 2:] += 1
    before, after = net(X, T, TEXT, visible=mask), net(changed, T, TEXT, visible=mask)
    assert torch.equal(before[:, :2], after[:, :2])
    assert not torch.allclose(before[:, 2:], after[:, 2:], atol=1e-2)
    assert not torch.allclose(net(X, T, TEXT)[:, :2], net(changed, T, TEXT)[:, :2], atol=1e-3), (
        "nor would it be hidden without"
    )


@torch.no_grad()
def test_the_prompt_matters_and_its_padding_is_attended(net: DiT) -> None:
    assert not torch.allclose(net(X, T, TEXT), net(X, T, TEXT.flip(1) * 2), atol=1e-3)
    cut, padded = TEXT[:, :2], torch.cat([TEXT[:, :2], torch.zeros(2, 2, SIZE.text_width)], 1)
    assert not torch.allclose(net(X, T, cut), net(X, T, padded), atol=1e-3)


def gradients(net: DiT, forward: Callable[[DiT], Tensor]) -> dict[str, Tensor]:
    net.zero_grad()
    forward(net).square().mean().backward()
    return {name: p.grad.clone() for name, p in net.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("compute_dtype", [None, "bfloat16"])
def test_law_9_checkpointing_changes_no_gradient(compute_dtype: str | None) -> None:
    both = torch.cat([X, X], 1)
    mask = teacher_forcing(4, 2)

    def forward(net: DiT) -> Tensor:
        return net(both, T, TEXT, positions=[*range(4)] * 2, visible=mask)

    plain = gradients(random_net(compute_dtype=compute_dtype), forward)
    saving = gradients(random_net(checkpointing=True, compute_dtype=compute_dtype), forward)
    assert plain.keys() == saving.keys() == dict(random_net().named_parameters()).keys()
    for name, g in plain.items():
        assert torch.equal(g, saving[name]), name
    assert min(float(g.norm()) for g in plain.values()) > 0, "every parameter has a gradient"


def relative(a: Tensor, b: Tensor) -> float:
    return float((a - b).norm() / b.norm())


def test_bf16_is_close_to_float32() -> None:
    def forward(net: DiT) -> Tensor:
        return net(X, T, TEXT)

    whole, half = random_net(), random_net(compute_dtype="bfloat16")
    with torch.no_grad():
        assert 1e-4 < relative(forward(half), forward(whole)) < 2e-2
    fine, coarse = gradients(whole, forward), gradients(half, forward)
    assert fine.keys() == coarse.keys()
    for name in (
        "blocks.0.self_attn.k.weight",
        "head.head.weight",
        "patch_embedding.weight",
        "text_embedding.0.weight",
    ):
        assert coarse[name].dtype == torch.float32, "master weights stay float32"
        assert relative(coarse[name], fine[name]) < 5e-2, name


@torch.no_grad()
def test_bf16_text_keys_may_come_from_outside() -> None:
    net = random_net(compute_dtype="bfloat16")
    assert torch.allclose(net(X, T, net.text_keys(TEXT)), net(X, T, TEXT), atol=5e-2)


@torch.no_grad()
def test_wrong_sizes_name_both_numbers(net: DiT) -> None:
    with pytest.raises(ValueError, match=r"latents are 5 x 4 x 6; the network takes 4 channels"):
        net(normal(1, 2, 5, *GRID), T[:1], TEXT[:1])
    with pytest.raises(ValueError, match=r"latents are 4 x 5 x 6; .*patch 2 x 2"):
        net(normal(1, 2, 4, 5, 6), T[:1], TEXT[:1])
    with pytest.raises(ValueError, match=r"latents are 4 x 4 x 7; .*patch 2 x 2"):
        net(normal(1, 2, 4, 4, 7), T[:1], TEXT[:1])
    with pytest.raises(ValueError, match="4 frames, but 3 positions"):
        net(X, T, TEXT, positions=[0, 1, 2])
    with pytest.raises(ValueError, match="text embeddings are 17 wide, the network expects 16"):
        net(X, T, normal(2, 4, 17))


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"width": 65, "heads": 4}, "width 65 is not divisible by heads 4"),
        ({"width": 20, "heads": 4}, "head dim 5 is odd"),
        ({"patch": (2, 2, 2)}, "spans 2 latent frames; it must span 1"),
    ],
)
def test_an_impossible_size_is_refused(wrong: dict[str, int], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        Size(**wrong)
