"""A pass's keys learn after its output: a strategy's hooks, which come with the output, go first."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from adastate.stream import StateCache
from adastate.stream.backward_order import after_output
from adastate.stream.rollout import rollout
from adastate.types import Memory
from tests.support.tiny import SHAPE, Drawn, normal, random_net, spec


def test_what_follows_an_output_keeps_its_values_and_gradients() -> None:
    w, came = torch.tensor([2.0, 3.0], requires_grad=True), list[tuple[str, list[float]]]()
    kept, unused = w * 7, w * 11
    output = w[:1] * 5  # comes last, as in a network
    output.register_hook(lambda g: came.append(("output", g.tolist())))
    kept.register_hook(lambda g: came.append(("kept", g.tolist())))
    found, other = after_output(output, [kept, unused])
    assert torch.equal(found, kept) and torch.equal(other, unused)
    found.sum().backward()
    assert came == [("output", [0.0]), ("kept", [1.0, 1.0])]
    assert w.grad is not None and w.grad.tolist() == [7.0, 7.0]


@pytest.mark.parametrize("variant", [{"state_grad": 1}, {"cache_grad": "straight_through", "past_frames": 3}], ids=str)
def test_backward_enters_every_pass_by_its_output_the_last_pass_first(variant: dict[str, Any]) -> None:
    net = random_net()
    text = normal(1, net.size.text_tokens, net.size.text_width, seed=7)
    entered, layers, passes = list[int](), list[int](), 0

    def network(x: Tensor, t: Tensor, memory: Memory) -> Tensor:
        nonlocal passes
        number, passes = passes, passes + 1
        velocity: Tensor = net(x, t, text, memory=memory)
        if velocity.requires_grad:
            velocity.register_hook(lambda _: entered.append(number))
        return velocity

    for block in net.blocks:
        project = block.self_attn.k

        def seen(module: Any, inputs: Any, out: Tensor) -> None:
            number = passes - 1  # counted when it began
            if out.requires_grad:
                out.register_hook(lambda _: layers.append(number))

        project.register_forward_hook(seen)
    chunks = list(rollout(network, Drawn(), StateCache(spec(**variant)), 2, SHAPE, grad=True, finish=False))
    chunks[-1].content.square().sum().backward()
    assert entered == sorted(entered, reverse=True) and len(set(entered)) == len(entered) >= 2
    assert set(layers) == set(entered), "a layer learns in passes alone that were entered by their output"
