"""The averaged weights."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from adastate.models.wan import DiT
from adastate.optim.ema import EMA
from tests.support.tiny import random_net


def weight(net: DiT) -> Tensor:
    return net.head.head.weight.detach().clone()


def move(net: DiT, by: float = 1.0) -> Tensor:
    with torch.no_grad():
        for p in net.parameters():
            p += by
    return weight(net)


def test_decay_is_the_weight_of_the_old(net: DiT) -> None:
    ema = EMA(net, 0.9)
    old = weight(net)
    new = move(net)
    ema.update(net)
    assert torch.allclose(weight(ema.net), 0.9 * old + 0.1 * new, atol=1e-6)
    ema.update(net)
    assert torch.allclose(weight(ema.net), 0.81 * old + 0.19 * new, atol=1e-6)
    assert torch.equal(weight(net), new), "the net itself is left alone"


def test_before_start_it_is_a_copy(net: DiT) -> None:
    ema = EMA(net, 0.9, start=2)
    for _ in range(2):
        new = move(net)
        ema.update(net)
        assert torch.allclose(weight(ema.net), new, atol=1e-6)
    move(net)
    ema.update(net)
    assert torch.allclose(weight(ema.net), new + 0.1, atol=1e-5)


def test_warmup_forgets_the_beginning(net: DiT) -> None:
    """The decay of update n is at most (1 + n) / (10 + n): 2/11, 3/12, ..."""
    ema = EMA(net, 0.999, warmup=True)
    old = weight(net)
    new = move(net)
    ema.update(net)
    assert torch.allclose(weight(ema.net), 2 / 11 * old + 9 / 11 * new, atol=1e-6)
    cold = EMA(net, 0.1, warmup=True)
    newer = move(net)
    cold.update(net)
    assert torch.allclose(weight(cold.net), 0.1 * new + 0.9 * newer, atol=1e-6), "never above the decay itself"


def test_it_learns_nothing_and_travels_in_checkpoints(net: DiT) -> None:
    ema = EMA(net, 0.5)
    assert not any(p.requires_grad for p in ema.parameters()) and not ema.net.training
    assert all(p.requires_grad for p in net.parameters())
    move(net)
    ema.update(net)
    other = EMA(random_net(seed=9), 0.5)
    other.load_state_dict(ema.state_dict())
    assert int(other.updates) == 1 and torch.equal(weight(other.net), weight(ema.net))


@pytest.mark.parametrize("decay", [-0.1, 1.0, 2.0])
def test_an_impossible_decay(net: DiT, decay: float) -> None:
    with pytest.raises(ValueError, match=rf"EMA decay {decay} must lie in \[0, 1\)"):
        EMA(net, decay)
