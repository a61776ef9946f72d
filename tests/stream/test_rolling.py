"""The staircase in training: which of its joint passes have the gradient, and what is output (Rolling-Forcing)."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from adastate.stream import Exits, StateCache, StreamSpec
from adastate.stream.rollout import rollout
from adastate.types import Chunk
from tests.support.tiny import SHAPE, Drawn, Marked, NetStudent, random_net

STAIRS: dict[str, Any] = {
    "schedule": "staircase",
    "chunk_frames": 2,
    "anchor": "static",
    "state_frames": 2,
    "position": "anchor_contiguous",
    "past_frames": 6,
    "attention_frames": 10,
    "clean_pass_context": "recent",
    "denoising_steps": (1000, 700, 400),
}
LEVELS, CHUNKS = 3, 5


def stairs(**changes: Any) -> StreamSpec:
    return StreamSpec(**{**STAIRS, **changes})


def made(student: Any, s: StreamSpec, exits: Exits, grad: bool = False, **kwargs: Any) -> list[Chunk]:
    return list(rollout(student, Drawn(), StateCache(s), CHUNKS, SHAPE, exits, grad, **kwargs))


def window_of(chunk: int, phase: int) -> int:
    """The one joint pass of a phase that holds a chunk."""
    return next(w for w in range(chunk, chunk + LEVELS) if w % LEVELS == phase)


@torch.no_grad()
def test_all_phases_together_supervise_every_chunk_at_every_level() -> None:
    student, seen = NetStudent(random_net()), set()
    for phase in range(LEVELS):
        chunks = made(student, stairs(), Exits(window_phase=phase))
        assert [(c.index, c.start) for c in chunks] == [(i, 2 * i) for i in range(CHUNKS)], (
            "each of them once, in order"
        )
        assert [c.passes - 2 for c in chunks] == [window_of(c, phase) - c for c in range(CHUNKS)]
        seen |= {(c.index, c.passes - 2) for c in chunks}
    assert seen == {(chunk, level) for chunk in range(CHUNKS) for level in range(LEVELS)}


@torch.no_grad()
def test_the_output_is_what_inference_sees_on_its_way() -> None:
    """The same stream: what a phase outputs from its last level is what comes out finished."""
    student = NetStudent(random_net())
    finished = made(student, stairs(), Exits())
    passes = list(student.passes)
    for phase in range(LEVELS):
        student.passes.clear()
        chunks = made(student, stairs(), Exits(window_phase=phase))
        for (x, t, _, v), (x_, t_, _, v_) in zip(student.passes, passes, strict=True):
            assert torch.equal(x, x_) and torch.equal(t, t_) and torch.equal(v, v_)
        for chunk in chunks:
            assert torch.equal(chunk.content, finished[chunk.index].content) == (chunk.passes - 2 == LEVELS - 1)


@pytest.mark.parametrize("phase", range(LEVELS))
def test_the_passes_after_the_last_of_the_phase_can_be_spared(phase: int) -> None:
    student = NetStudent(random_net())
    whole = made(student, stairs(), Exits(window_phase=phase), grad=True)
    passes = len(student.passes)
    short = made(student, stairs(), Exits(window_phase=phase), grad=True, finish=False)
    assert all(torch.equal(a.content, b.content) for a, b in zip(whole, short, strict=True))
    assert len(student.passes) - passes < passes


@torch.no_grad()
def test_the_last_clean_pass_can_be_spared() -> None:
    counts = []
    for finish in (True, False):
        student = NetStudent(random_net())
        chunks = made(student, stairs(), Exits(), finish=finish)
        counts.append((len(chunks), len(student.passes)))
    joint = CHUNKS + LEVELS - 1
    assert counts == [(CHUNKS, joint + CHUNKS), (CHUNKS, joint + CHUNKS - 1)]


def reached(student: Marked, content: Tensor) -> set[int]:
    grads = torch.autograd.grad(content.square().sum(), student.marks, retain_graph=True, allow_unused=True)
    return {i for i, g in enumerate(grads) if g is not None and g != 0}


@pytest.mark.parametrize("cache_grad", ["detached", "straight_through"])
@pytest.mark.parametrize("phase", range(LEVELS))
def test_joint_passes_of_the_phase_alone_have_the_gradient(cache_grad: str, phase: int) -> None:
    """With straight-through gradients one also teaches those before it: it sees the chunks that they began with."""
    student = Marked(random_net())
    chunks = made(student, stairs(cache_grad=cache_grad), Exits(window_phase=phase), grad=True)
    # the number of each joint pass among all: from window LEVELS - 1 on a clean pass follows each
    at = [w + max(0, w - LEVELS + 1) for w in range(CHUNKS + LEVELS - 1)]
    with_gradient = {at[w] for w in range(CHUNKS + LEVELS - 1) if w % LEVELS == phase}
    assert {i for i, graph in enumerate(student.graph) if graph} == with_gradient
    for chunk in chunks:
        own = window_of(chunk.index, phase)
        before = {at[w] for w in range(own) if w % LEVELS == phase} if cache_grad == "straight_through" else set()
        assert reached(student, chunk.content) == {at[own]} | before


def test_straight_through_is_for_the_first_chunk_of_a_pass_alone() -> None:
    """Phase 2: windows 2 (chunks 0 to 2) and 5 (chunks 3, 4). Of the first only chunk 0 keeps its keys' gradient."""
    net = random_net()
    cache = StateCache(stairs(cache_grad="straight_through"))
    stream = rollout(NetStudent(net), Drawn(), cache, CHUNKS, SHAPE, Exits(window_phase=2), grad=True)
    for _ in range(4):
        next(stream)  # up to chunk 3, of the second pass: chunks 0 to 2 are written by then
    assert cache.anchor is not None and cache.window is not None
    assert (cache.anchor.source, cache.window.source) == ((0, 1), (2, 3, 4, 5))
    weight = net.patch_embedding.weight
    for keys in (*cache.anchor.keys[1:], *cache.anchor.values):
        assert bool(torch.autograd.grad(keys.square().sum(), weight, retain_graph=True)[0].any())
    assert not any(keys.requires_grad for keys in (*cache.window.keys, *cache.window.values))


@pytest.mark.parametrize("grad", [True, False])
@pytest.mark.parametrize("quiet", [1, 2, 3, 4, 6])
@pytest.mark.parametrize("phase", range(LEVELS))
def test_passes_that_end_within_the_quiet_frames_are_without_gradient_and_output_zeros(
    phase: int, quiet: int, grad: bool
) -> None:
    student = NetStudent(random_net())
    plain = made(student, stairs(), Exits(window_phase=phase))
    for a, b in zip(plain, made(student, stairs(), Exits(window_phase=phase, quiet_frames=quiet), grad), strict=True):
        end = 2 * (min(window_of(a.index, phase), CHUNKS - 1) + 1)
        if end <= quiet:
            assert not b.content.requires_grad and not bool(b.content.any())
        else:
            assert b.content.requires_grad == grad and torch.allclose(a.content, b.content, atol=1e-6)


@pytest.mark.parametrize("cache_grad", ["detached", "straight_through"])
def test_checkpointing_changes_no_gradient(cache_grad: str) -> None:
    def gradients(checkpointing: bool) -> dict[str, Tensor]:
        net = random_net(checkpointing=checkpointing)
        chunks = made(NetStudent(net), stairs(cache_grad=cache_grad), Exits(window_phase=1), grad=True)
        torch.cat([c.content for c in chunks], 1).square().sum().backward()
        return {name: p.grad for name, p in net.named_parameters() if p.grad is not None}

    plain, saving = gradients(False), gradients(True)
    assert plain.keys() == saving.keys()
    for name, g in plain.items():
        assert torch.allclose(g, saving[name], rtol=1e-5, atol=1e-5 * float(g.abs().max())), name
