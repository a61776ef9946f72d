"""Muon for matrices, AdamW for the rest, as one optimiser."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from adastate.optim import muon as muon_module
from adastate.optim.adamw import adamw
from adastate.optim.muon import Muon, is_matrix, orthogonal
from adastate.optim.settings import OptimizerSettings
from tests.support.tiny import normal


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 16, 3), nn.SiLU(), nn.Flatten(), nn.Linear(16 * 4, 24), nn.Linear(24, 2))


def step(net: nn.Module, optimizer: torch.optim.Optimizer, seed: int = 0) -> None:
    optimizer.zero_grad()
    net(normal(4, 3, 4, 4, seed=seed)).square().mean().backward()
    optimizer.step()


def test_kernels_are_matrices_and_what_is_narrow_is_not() -> None:
    told = {name: is_matrix(p) for name, p in net().named_parameters()}
    assert told == {
        "0.weight": True,
        "0.bias": False,
        "3.weight": True,
        "3.bias": False,
        "4.weight": False,
        "4.bias": False,
    }


@pytest.mark.parametrize(("dtype", "apart"), [(torch.bfloat16, 0.0), (torch.float32, 0.006)])
def test_a_linear_layer_is_moved_as_torch_s_muon_moves_it_and_a_bias_as_adamw_does(
    dtype: torch.dtype, apart: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To the bit where it iterates in the same numbers; otherwise within a tenth of what the three steps moved."""
    monkeypatch.setattr(muon_module, "orthogonal", lambda matrix, _: orthogonal(matrix, dtype))
    ours, theirs = nn.Linear(24, 16), nn.Linear(24, 16)
    theirs.load_state_dict(ours.state_dict())
    muon = torch.optim.Muon([theirs.weight], 0.02, weight_decay=0.01, momentum=0.95)
    adam = torch.optim.AdamW([theirs.bias], 1e-3, (0.9, 0.99), weight_decay=0.0)
    both = Muon(ours.parameters(), 0.02, 1e-3)
    for i in range(3):
        for layer in (ours, theirs):
            layer.zero_grad()
            layer(normal(5, 24, seed=i)).square().mean().backward()
        muon.step()
        adam.step()
        both.step()
    assert (ours.weight - theirs.weight).abs().max() <= apart
    assert torch.allclose(ours.bias, theirs.bias, atol=10 * apart**2)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_it_iterates_in_the_numbers_that_are_fast_on_its_device(
    dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[torch.dtype] = []
    monkeypatch.setattr(muon_module, "fast_dtype", {"cpu": dtype}.__getitem__)
    monkeypatch.setattr(muon_module, "orthogonal", lambda matrix, told: seen.append(told) or matrix)
    whole = net()
    step(whole, Muon(whole.parameters(), 0.01, 1e-3))
    assert seen == [dtype] * 2


def test_the_update_of_a_kernel_is_nearly_orthogonal() -> None:
    layer = nn.Conv2d(4, 12, 3)
    before = layer.weight.detach().clone()
    optimizer = Muon(layer.parameters(), 1.0, 1e-3, weight_decay=0.0)
    layer(normal(8, 4, 5, 5)).square().mean().backward()
    optimizer.step()
    found = torch.linalg.svdvals((layer.weight.detach() - before).flatten(1))
    assert found.min() > 0.5 and found.max() < 1.5


def test_it_goes_on_from_its_state_as_if_it_had_never_stopped() -> None:
    whole = net()
    optimizer = Muon(whole.parameters(), 0.01, 1e-3)
    for i in range(2):
        step(whole, optimizer, i)
    again, saved = copy.deepcopy(whole), copy.deepcopy(optimizer.state_dict())
    resumed = Muon(again.parameters(), 0.5, 0.5)
    resumed.load_state_dict(saved)
    for i in range(2, 4):
        step(whole, optimizer, i)
        step(again, resumed, i)
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), again.parameters(), strict=True))


def test_schedules_scale_both_rates() -> None:
    made = adamw(net(), OptimizerSettings(1e-3, 0.02, warmup=4), 10)
    assert [g["lr"] for g in made["optimizer"].param_groups] == pytest.approx([0.005, 0.00025])


def test_a_network_without_matrices() -> None:
    with pytest.raises(ValueError, match="Muon needs matrices"):
        Muon(nn.Linear(2, 2).parameters(), 0.01, 1e-3)


def test_weights_in_pieces() -> None:
    layer = nn.Linear(24, 16)
    layer.weight.ds_id = 0  # type: ignore[assignment]
    with pytest.raises(ValueError, match="whole matrices: leave `muon_lr` null"):
        Muon(layer.parameters(), 0.01, 1e-3)
