"""Streams of the same weights share what is made of them, and never see weights that have changed since."""

from __future__ import annotations

import copy
import gc
import pickle
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from adastate.models.wan import fused
from adastate.training.shared_passes import SharedPasses
from adastate.training.student import Student
from tests.support.rig import tiny_distill
from tests.support.tiny import random_net


@pytest.fixture
def joined(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The number of every layer whose weights were joined."""
    found = list[int]()
    make = fused._Layer.__init__

    def noted(self: Any, block: Any, *args: Any) -> None:
        found.append(block.layer)
        make(self, block, *args)

    monkeypatch.setattr(fused._Layer, "__init__", noted)
    return found


@pytest.fixture
def student() -> Student:
    made = tiny_distill().student
    torch.nn.init.normal_(made.ema.net.head.head.weight, std=0.1)
    return made


def streamed(student: Student, **options: Any) -> torch.Tensor:
    return torch.cat([c.content for c in student.stream(["snow"], 6, **options)], 1)


def test_streams_join_the_weights_once(student: Student, joined: list[int]) -> None:
    first = streamed(student)
    assert torch.equal(streamed(student), first)
    streamed(student, seed=3)
    assert len(joined) == student.net.size.layers


def test_a_weight_that_has_changed_counts_at_once(student: Student, joined: list[int]) -> None:
    before, layers = streamed(student), student.net.size.layers
    with torch.no_grad():
        student.ema.net.blocks[0].ffn[0].weight.mul_(2)
    after = streamed(student)
    assert not torch.equal(before, after) and len(joined) == 2 * layers
    with torch.no_grad():
        for p in student.net.parameters():
            p.add_(0.01)
    student.ema.update(student.net)
    assert not torch.equal(streamed(student), after) and len(joined) == 3 * layers
    loaded = {k: v.clone() for k, v in random_net(student.net.size).state_dict().items()}
    student.ema.net.load_state_dict(loaded, assign=True)
    streamed(student)
    assert len(joined) == 4 * layers


def test_a_run_keeps_nothing_of_a_preview(student: Student, joined: list[int]) -> None:
    student._trainer = SimpleNamespace(training=True)  # type: ignore[assignment]
    running = student.stream(["snow"], 6)
    next(running)
    streamed(student)
    assert len(joined) == student.net.size.layers, "streams side by side share them all the same"
    del running
    gc.collect()
    assert student.passes._made() is None


def test_other_engines_and_dtypes_have_passes_of_their_own(joined: list[int]) -> None:
    net, shared = random_net(), SharedPasses()
    one = shared.of(net, "eager", fp8=False, keep=True)
    assert shared.of(net, "eager", fp8=False, keep=True) is one
    with torch.autocast("cpu", torch.bfloat16):
        other = shared.of(net, "eager", fp8=False, keep=True)
    assert other is not one and getattr(other, "dtype", None) == torch.bfloat16
    assert shared.of(random_net(), "eager", fp8=False, keep=True) is not one


def test_a_copy_begins_empty() -> None:
    shared, net = SharedPasses(), random_net()
    shared.of(net, "eager", fp8=False, keep=True)
    for other in (copy.deepcopy(shared), pickle.loads(pickle.dumps(shared))):
        assert other._kept is None and other._made() is None
