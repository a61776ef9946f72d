"""Experiments on the memory of streams: what is done is done, and nothing else."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from torch import Tensor

from adastate import metrics
from adastate.diffusion.noise import PlacedNoise
from adastate.study import cli as study_cli
from adastate.study import interventions
from adastate.study.interventions import BankPlan, came_out, twins
from adastate.study.stepped_stream import CoupledNoise, SteppedStream, disturbed, exchanged
from adastate.study.world_truth import hues_of, world_truth
from tests.support.rig import tiny_student

PROMPTS = ["red", "red"]
ALONE = {"chunk_frames": 1, "past_frames": 0, "anchor": "state", "state_frames": 1}
"""Nothing but the state passes from chunk to chunk."""


def test_chunk_by_chunk_it_is_the_same_stream() -> None:
    student = tiny_student(chunk_frames=1, past_frames=2)
    whole = list(student.stream(PROMPTS, 6, noise=PlacedNoise(3, range(2))))
    stepped = SteppedStream(student, PROMPTS, PlacedNoise(3, range(2)))
    for chunk in whole:
        mine = stepped.step()
        assert torch.allclose(mine.content, chunk.content, atol=1e-5) and mine.start == chunk.start
    with pytest.raises(ValueError, match="only the uniform schedule generates single chunks"):
        SteppedStream(
            tiny_student(schedule="staircase", anchor="static", position="anchor_contiguous", state_frames=3),
            PROMPTS, PlacedNoise(3, range(2)),
        )  # fmt: skip


def test_who_gets_another_s_anchor_goes_on_as_that_one() -> None:
    student = tiny_student(**ALONE)
    plain, mixed = (SteppedStream(student, PROMPTS, PlacedNoise(3, [5, 5])) for _ in range(2))  # noise and prompt alike
    first = torch.randn(2, 1, *student.latent_shape, generator=torch.Generator().manual_seed(0))
    for stream in (plain, mixed):
        stream.step(first)
    assert mixed.cache.anchor is not None
    mixed.cache.anchor = exchanged(mixed.cache.anchor, [1, 0])  # type: ignore[arg-type]
    a, b = plain.step().content, mixed.step().content
    assert torch.allclose(a.flip(0), b, atol=1e-5) and (a[0] - a[1]).abs().max() > 1e-3


def test_forced_content_is_remembered_and_the_denoised_one_is_shown() -> None:
    student = tiny_student(chunk_frames=1, past_frames=2, anchor="none", state_frames=0)
    one, two = (SteppedStream(student, PROMPTS, PlacedNoise(3, range(2))) for _ in range(2))
    zeros = torch.zeros(2, 1, *student.latent_shape)
    assert torch.equal(one.step().content, two.step(zeros).content)
    assert two.cache.recent is not None and not two.cache.recent.any()
    assert not torch.equal(one.step().content, two.step().content)


def test_coupled_noise_differs_in_the_first_chunk_alone() -> None:
    plain, first, mixed = PlacedNoise(1, [4]), PlacedNoise(2, [4]), CoupledNoise(1, 2, [4])

    def drawn(noise: PlacedNoise, chunk: int) -> Tensor:
        return noise.at(chunk, 1, "content").normal(3)

    assert torch.equal(drawn(mixed, 0), drawn(first, 0)) and torch.equal(drawn(mixed, 1), drawn(plain, 1))


@pytest.mark.slow
def test_streams_that_keep_nothing_forget_at_once() -> None:
    memoryless = tiny_student(chunk_frames=1, past_frames=0, anchor="none", state_frames=0)
    assert interventions.coupled(memoryless, PROMPTS, 8, 3)[2:].max() < 1e-4, "one latent is cached even so"
    kept = interventions.coupled(tiny_student(chunk_frames=1, past_frames=0, anchor="static"), PROMPTS, 8, 3)
    assert kept[2:].min() > 1e-3 and kept[0] > 0.5


@pytest.mark.slow
def test_cached_keys_carry_over_layers_times_window_and_no_farther() -> None:
    student = tiny_student(chunk_frames=1, past_frames=1, anchor="none", state_frames=0)
    felt = interventions.memory_reach(student, ["red", "snow"], 3, 6, 3)
    layers = student.net.size.layers
    assert min(felt[:layers]) > 1e-4 and max(felt[layers:]) < 1e-5, felt
    kept = interventions.memory_reach(tiny_student(**ALONE), ["red", "snow"], 3, 6, 3)
    assert max(kept) < 1e-5, "there is no window to exchange"


def test_noise_comes_where_it_is_told_to() -> None:
    student = tiny_student(chunk_frames=1, past_frames=2)
    stream = SteppedStream(student, PROMPTS, PlacedNoise(3, range(2)))
    [stream.step() for _ in range(3)]
    window = stream.cache.window
    assert window is not None
    other = disturbed(window, 0.5, 1, newest=1)  # type: ignore[arg-type]
    changed = [(a != b).any(-1).any(-1).any(0) for a, b in zip(window.keys, other.keys, strict=True)]
    half = window.frame_tokens
    assert all(not c[:half].any() and c[half:].all() for c in changed)
    found = interventions.injection(student, PROMPTS, "anchor", 2, 4, 3)
    assert len(found["content"]) == len(found["state"]) == 4 and min(found["content"]) > 0
    none = tiny_student(chunk_frames=1, past_frames=2, anchor="none", state_frames=0)
    errors = interventions.injection(none, PROMPTS, "anchor", 2, 2, 3)
    assert errors["content"] == [0, 0] and all(map(math.isnan, errors["state"])), "there is no anchor"


# ---- what comes out of a bank of fog, on made-up streams


@pytest.mark.parametrize("hidden", [7, 9, 18, 27])
def test_a_bank_hides_what_it_says_and_streams_are_free_when_it_lifts(hidden: int) -> None:
    plan, world = BankPlan.of(hidden, 3), world_truth("mist")
    flights = [f for f in twins(world, 2, 1)]
    seen = made(flights, plan)
    fog = seen.isnan().all(0)
    first, free = plan.begin * 3 + 3, plan.end * 3
    assert fog[first:free].all() and not fog[:first].all()
    assert plan.begin < plan.middle < plan.end and (~fog[free : free + 9]).any(), "and the sky clears soon after"
    assert hidden - 3 <= int(fog[plan.period :].sum()) - int(fog[2 * plan.period :].sum())


def made(flights: list, plan: BankPlan, regions: bool = False) -> Tensor:  # type: ignore[type-arg]
    from dataclasses import replace

    flown = [replace(f, period=plan.period, phase=0.0, mover="nothing else moves") for f in flights]
    return hues_of(world_truth("mist").render(flown, 2 * plan.period + 9), flown)


def test_memory_donors_and_frozen_hues_are_told_apart() -> None:
    plan, flights = BankPlan.of(9, 3), twins(world_truth("mist"), 16, 2)
    due, half = made(flights, plan), 16
    order = [(i + half) % len(flights) for i in range(len(flights))]
    free = due[:, plan.end * 3 :]
    own = came_out(free, due, flights, order, plan, 3)
    assert own.memory.slope == pytest.approx(1, abs=0.1) and own.memory.error < 0.06 and own.appeared == 1
    swapped = came_out(free[order], due, flights, order, plan, 3)
    assert swapped.donor_error < 0.06 < 0.15 < swapped.memory.error and own.donor_error > 0.15
    entry = torch.stack([line[~line.isnan()][-1] for line in due[:, : plan.begin * 3 + 2]])
    frozen = came_out(entry[:, None].expand(-1, 6), due, flights, None, plan, 3)
    assert abs(frozen.memory.slope) < 0.15 and math.isnan(frozen.donor_error)
    assert came_out(torch.full((32, 6), math.nan), due, flights, None, plan, 3).appeared == 0


def test_flights_that_exchange_anchors_fly_alike() -> None:
    flights = twins(world_truth("mist"), 4, 1)
    assert [f.velocity for f in flights[:4]] == [f.velocity for f in flights[4:]]
    assert all(a.region != b.region for a, b in zip(flights[:4], flights[4:], strict=True))
    with pytest.raises(ValueError, match="a world with fog"):
        twins(world_truth("journey"), 2, 1)


@pytest.mark.slow
def test_the_student_that_ships_is_experimented_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # where no run stands in for the bundled student
    out = tmp_path / "found.json"
    words = ["--world", "mist", "--pairs", "1", "--rows", "2", "--chunks", "3"]
    study_cli.main(["intervene", *words, "--hidden", "7", "--json", str(out)])
    told = json.loads(out.read_text())
    assert [r["deed"] for r in told["occlusions"]] == list(interventions.DEEDS)
    assert metrics.CHANCE and told["reach"]["keys"] == 12 and len(told["forgetting"]["curve"]) > 3
