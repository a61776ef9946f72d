"""The learning rate rises, stays, and comes to rest."""

from __future__ import annotations

import pytest
from torch import nn

from adastate.optim import adamw


def rates(steps: int, run: int) -> list[float]:
    made = adamw(nn.Linear(1, 1), 1.0, (0.9, 0.99), 0.0, warmup=4, decay_share=0.5, steps=steps)
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
