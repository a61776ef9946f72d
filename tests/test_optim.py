"""The learning rate rises, stays, and comes to rest."""

from __future__ import annotations

import pytest
from torch import nn

from adastate.optim import adamw


def rates(steps: int, run: int, warmup: int = 4, decay_share: float = 0.5) -> list[float]:
    made = adamw(nn.Linear(1, 1), 1.0, (0.9, 0.99), 0.0, warmup, decay_share, steps)
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
    assert rates(20, 20, warmup=0, decay_share=0.0) == [1.0] * 20


def test_what_does_not_learn_is_not_in_the_optimiser() -> None:
    net = nn.Linear(2, 2)
    net.weight.requires_grad_(False)
    made = adamw(net, 1.0, (0.9, 0.99), 0.0, 0, 0.0, 1)
    assert [p is net.bias for g in made["optimizer"].param_groups for p in g["params"]] == [True]
