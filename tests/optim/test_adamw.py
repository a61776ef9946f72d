"""The learning rate rises, stays, and comes to rest."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from adastate.optim.adamw import adamw, adamw_for
from adastate.optim.settings import OptimizerSettings


def rates(steps: int, run: int, warmup: int = 4, lr_decay_fraction: float = 0.5) -> list[float]:
    made = adamw(nn.Linear(1, 1), OptimizerSettings(1.0, warmup=warmup, lr_decay_fraction=lr_decay_fraction), steps)
    optimizer, schedule = made["optimizer"], made["lr_scheduler"]["scheduler"]
    found = []
    for _ in range(run):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return found


def test_the_rate_warms_up_and_falls_to_a_hundredth_by_the_end() -> None:
    found = rates(20, 21)
    assert found[:5] == [0.25, 0.5, 0.75, 1.0, 1.0]
    assert found[10] == 1.0 > found[11] > found[15] > found[20] == pytest.approx(0.01)


def test_without_an_end_it_stays() -> None:
    assert rates(-1, 50)[4:] == [1.0] * 46


def test_without_warm_up_and_decay_it_is_constant() -> None:
    assert rates(20, 20, warmup=0, lr_decay_fraction=0.0) == [1.0] * 20


def test_what_does_not_learn_is_not_in_the_optimiser() -> None:
    net = nn.Linear(2, 2)
    net.weight.requires_grad_(False)
    made = adamw(net, OptimizerSettings(), 1)
    assert [p is net.bias for g in made["optimizer"].param_groups for p in g["params"]] == [True]


def test_in_one_operation_it_is_the_same_step() -> None:
    ours, plain = nn.Linear(5, 3), nn.Linear(5, 3)
    plain.load_state_dict(ours.state_dict())
    optimizers = (
        adamw_for(ours, 0.1, (0.0, 0.9), 0.1),
        torch.optim.AdamW(plain.parameters(), 0.1, (0.0, 0.9), 1e-8, 0.1),
    )
    assert optimizers[0].param_groups[0]["fused"] and not optimizers[1].param_groups[0]["fused"]
    for step in range(3):
        for net, optimizer in zip((ours, plain), optimizers, strict=True):
            net(torch.arange(5.0) + step).square().sum().backward()
            optimizer.step()
            optimizer.zero_grad()
    assert torch.allclose(ours.weight, plain.weight, rtol=1e-5)
