"""Where a training rollout stops, which of its passes have the gradient, and where the state's graph is cut."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from adastate.stream import Exits, StateCache, StreamSpec
from adastate.stream.rollout import rollout
from tests.support.tiny import SHAPE, Drawn, Marked, NetStudent, TaggedStudent, random_net, read_system, spec

LEVELS = (1000, 750, 250)
OWN = (1000, 800, 600, 400, 200)


@pytest.mark.parametrize("level", [0, 1, 2, None])
@pytest.mark.parametrize("first", [0, 1, 3, 4, None])
def test_the_first_chunk_has_an_exit_of_its_own(level: int | None, first: int | None) -> None:
    student, s = TaggedStudent(), spec(denoising_steps=LEVELS, first_chunk_denoising_steps=OWN)
    chunks = list(rollout(student, Drawn(), StateCache(s), 3, (1, 1, 1), Exits(level, first)))
    alone, then = 4 if first is None else first, 2 if level is None else level
    assert [c.passes for c in chunks] == [alone + 2, then + 2, then + 2]
    assert student.times == [*s.levels(0)[: alone + 1], 0.0, *([*s.timesteps[: then + 1], 0.0] * 2)]


@pytest.mark.parametrize(
    ("variant", "exits", "said"),
    [
        ({}, Exits(2), "exit level 2 does not exist: the schedule has 2 levels for it"),
        ({}, Exits(first_level=0), "exit level of the first chunk 0 does not exist: the schedule has no levels for it"),
        ({"first_chunk_denoising_steps": OWN}, Exits(first_level=5), "first chunk 5 does not exist: .* 5 levels"),
        ({}, Exits(window_phase=0), "window phase 0 does not exist: the schedule has no levels for it"),
        ("rolling_forcing", Exits(window_phase=5), "window phase 5 does not exist: the schedule has 5 levels for it"),
        ("rolling_forcing", Exits(0), "exit level 0 does not exist: the schedule has no levels for it"),
        ("rolling_forcing", Exits(), "the gradient of a staircase is that of its joint passes: give Exits a window_p"),
    ],
)
def test_exits_that_the_stream_does_not_have(variant: Any, exits: Exits, said: str) -> None:
    s = read_system(variant) if isinstance(variant, str) else spec(**variant)
    with pytest.raises(ValueError, match=said):
        list(rollout(TaggedStudent(), Drawn(), StateCache(s), 2, (1, 1, 1), exits, grad=True))


@pytest.mark.parametrize("variant", [{}, {"cache_grad": "straight_through"}, {"state_grad": 1}], ids=str)
def test_quiet_frames_are_made_alike_and_have_no_gradient(variant: dict[str, Any]) -> None:
    student, s = NetStudent(random_net()), spec(**variant)
    all_, some = (
        list(rollout(student, Drawn(), StateCache(s), 4, SHAPE, Exits(1, quiet_frames=n), grad=True)) for n in (0, 4)
    )
    assert [c.content.requires_grad for c in all_] == [True] * 4
    assert [c.content.requires_grad for c in some] == [False, False, True, True], "chunks 0 and 1 begin before frame 4"
    assert all(torch.allclose(a.content, b.content, atol=1e-6) for a, b in zip(all_, some, strict=True))


# ---- the cut of the state's graph


def taught(s: StreamSpec, phase: int, chunks: int) -> list[set[int]]:
    """For every chunk those of whose passes it has a gradient."""
    student = Marked(random_net())
    made = list(rollout(student, Drawn(), StateCache(s), chunks, SHAPE, Exits(0, state_phase=phase), grad=True))
    found = []
    for chunk in made:
        loss = chunk.content.square().sum()
        grads = torch.autograd.grad(loss, student.marks, retain_graph=True, allow_unused=True)
        found.append({i // 2 for i, g in enumerate(grads) if g is not None and g != 0})  # exit and clean pass a chunk
    return found


@pytest.mark.parametrize("k", [1, 2, 3])
def test_every_transition_is_taught_at_some_phase(k: int) -> None:
    """And none of them all the time: at phase p the graph is cut in front of the chunks c with k + 1 | c + p."""
    chunks = 6
    by_phase = [taught(spec(state_grad=k), phase, chunks) for phase in range(k + 1)]
    for phase, found in enumerate(by_phase):
        first = [max([0, *(c for c in range(1, chunk + 1) if (c + phase) % (k + 1) == 0)]) for chunk in range(chunks)]
        assert found == [set(range(a, chunk + 1)) for chunk, a in enumerate(first)]
    for chunk in range(1, chunks):
        assert sum(chunk - 1 in found[chunk] for found in by_phase) == k


def test_a_frame_of_the_state_that_stays_is_cut_as_well() -> None:
    """Its keys are those of many chunks ago, and their graph would reach back as far."""
    for phase in (0, 1):
        found = taught(spec(state_grad=1, state_frames=2, state_update_every=(1, 100)), phase, 6)
        assert all(min(reached) >= chunk - 1 for chunk, reached in enumerate(found))


def test_a_cache_that_is_told_no_phase_has_that_of_exits_told_none() -> None:
    assert StateCache(spec(state_grad=1)).state_phase == Exits().state_phase
