"""Blocks through torch.compile: the same flow and gradients, and one program for all layers."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from adastate.models.fsdp import refuse_compiled
from adastate.models.wan import DiT, dit
from adastate.stream import StateCache
from adastate.stream.rollout import rollout
from tests.support.tiny import SHAPE, SIZE, Drawn, NetStudent, normal, random_net, spec


@pytest.fixture(autouse=True)
def traced(monkeypatch: Any) -> None:
    """Everything that compiling does but for the generation of code, which takes half a minute."""
    monkeypatch.setattr(dit, "BACKEND", "aot_eager")
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()


def programs() -> int:
    return int(torch._dynamo.utils.counters["stats"]["unique_graphs"])


def made(compiled: bool, checkpointing: bool, compute_dtype: str | None) -> tuple[torch.Tensor, torch.Tensor]:
    """Flow of a clip, and the gradient of all weights."""
    net = random_net().requires_grad_(True)
    net.compiled, net.checkpointing = compiled, checkpointing
    net.compute_dtype_name = compute_dtype
    text = normal(2, SIZE.text_tokens, SIZE.text_width, seed=7)
    flow = net(normal(2, 3, *SHAPE), torch.tensor([300.0, 800.0]), text)
    flow.square().mean().backward()
    return flow.detach(), torch.cat([p.grad.flatten() for p in net.parameters() if p.grad is not None])


@pytest.mark.parametrize("checkpointing", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_flow_and_gradients_are_those_of_the_operations_one_by_one(checkpointing: bool) -> None:
    (plain, gradient), (flow, g) = (made(compiled, checkpointing, None) for compiled in (False, True))
    assert programs() == 1, "for all layers"
    assert torch.allclose(flow, plain, atol=2e-6)
    assert (g - gradient).norm() / gradient.norm() < 1e-5


def test_weights_may_be_cast_for_the_pass() -> None:
    (plain, gradient), (flow, g) = (made(compiled, False, "bfloat16") for compiled in (False, True))
    assert programs() == 1
    assert (flow - plain).norm() / plain.norm() < 2e-2 and (g - gradient).norm() / gradient.norm() < 3e-2


def test_a_shape_has_a_program_of_its_own_and_a_stream_none() -> None:
    net = random_net()
    net.compiled = True
    text = normal(2, SIZE.text_tokens, SIZE.text_width, seed=7)
    with torch.no_grad():
        list(rollout(NetStudent(net, text[:1]), Drawn(), StateCache(spec()), 3, SHAPE))
        assert programs() == 0
        for batch in (2, 1, 2, 1):
            net(normal(batch, 3, *SHAPE), torch.full((batch,), 300.0), text[:batch])
    assert programs() == 2


def test_pieces_are_refused() -> None:
    net = DiT(SIZE, compiled=True)
    with pytest.raises(ValueError, match="FSDP shards them: leave out precision"):
        refuse_compiled(net, "FSDP")
