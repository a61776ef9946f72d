"""Teacher, student and critic together: who learns from what, and that it does not depend on how a batch is cut."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from adastate.diffusion.noise import SampleNoise
from adastate.models.wan import DiT
from adastate.stream import Exits
from adastate.training.objectives import SID
from adastate.weights import load_weights
from tests.support.rig import (
    Gradients,
    Prompts,
    Weights,
    changed,
    distance,
    fit,
    gradients_of,
    rolled_out,
    tiny_distill,
    weights,
)
from tests.support.tiny import GRID, SHAPE, SIZE

# ---- one iteration


def test_one_iteration_moves_student_and_critic_and_never_the_teacher() -> None:
    distill, gradients = tiny_distill(), Gradients()
    nets = (distill.teacher.net, distill.student.net, distill.critic.net)
    teacher, student, critic = map(weights, nets)
    fit(distill, Prompts(), gradients)
    assert distill.iteration == 1 and len(gradients.steps) == 2
    assert not any(changed(distill.teacher.net, teacher))
    assert all(changed(distill.student.net, student))
    assert all(changed(distill.critic.net, critic))
    assert not distill.teacher.training and not any(p.requires_grad for p in distill.teacher.parameters())


def test_law_9_gradients_reach_one_network_at_a_time() -> None:
    gradients = Gradients()
    fit(tiny_distill(), Prompts(), gradients)
    (student, with_student), (critic, with_critic) = gradients.steps
    assert {n.split(".")[0] for n in with_student} == {"student"}, "the student's loss leaves no gradient in its judges"
    assert {n.split(".")[0] for n in with_critic} == {"critic"}
    for name, g in {**student, **critic}.items():
        assert g.norm() > 0, name


def test_the_codec_and_the_averages_do_not_learn() -> None:
    distill = tiny_distill()
    fit(distill, Prompts())
    learning = {n.split(".net.")[0] for n, p in distill.named_parameters() if p.requires_grad}
    assert learning == {"student", "critic"}
    assert int(distill.student.ema.updates) == 1


@pytest.mark.parametrize(
    ("kwargs", "learners"),
    [
        ({"iterations": 6, "student_every": 5}, "scccccsc"),
        ({"iterations": 3, "student_every": 1}, "scscsc"),
        ({"iterations": 3, "student_every": 1, "critic_first": 2}, "ccsc"),
        ({"iterations": 2, "student_every": 2, "critic_updates": 3}, "scccccc"),
        ({"iterations": 2, "student_every": 2, "critic_updates": 2, "critic_new_rollout": False}, "scccc"),
    ],
)
def test_who_learns_when(kwargs: dict[str, Any], learners: str) -> None:
    distill, gradients = tiny_distill(**kwargs, global_batch=2), Gradients()
    fit(distill, Prompts(2), gradients)
    assert "".join(next(iter(g))[0] for g, _ in gradients.steps) == learners
    assert distill.iteration == kwargs["iterations"]
    assert int(distill.student.ema.updates) == learners.count("s"), "the average follows the student's updates"


def test_every_iteration_draws_anew() -> None:
    """A rollout, a score and a critic step of their own: no gradient comes twice."""
    distill, gradients = tiny_distill(iterations=3, student_every=1, student_lr=0.0, critic_lr=0.0), Gradients()
    before = weights(distill.student.net)
    fit(distill, Prompts(), gradients)
    assert not any(changed(distill.student.net, before))
    norms = [round(float(next(iter(g.values())).norm()), 9) for g, _ in gradients.steps]
    assert len(set(norms)) == len(norms) == 6


# ---- how a batch is cut


def one_iteration(batch: int, per_rank: bool = False, **kwargs: Any) -> list[Weights]:
    """Gradients at every optimiser's step. Rates are the recipe's: Adam's first step makes a sign of every rounding."""
    gradients = Gradients()
    fit(tiny_distill(student_lr=2e-6, critic_lr=2e-6, **kwargs), Prompts(batch, per_rank), gradients)
    return [g for g, _ in gradients.steps]


@pytest.mark.parametrize(
    "kwargs",
    [
        {},
        {"state_loss": "dmd"},
        {"critic_updates": 2},
        {"critic_updates": 2, "critic_new_rollout": False},
        {"critic_first": 1},
    ],
    ids=str,
)
def test_accumulation_equals_one_big_batch(kwargs: dict[str, Any]) -> None:
    """At every optimiser's step: the student's and then each of the critic's."""
    whole = one_iteration(4, **kwargs)
    for batch in (1, 2):
        parts = one_iteration(batch, **kwargs)
        assert [distance(a, b) for a, b in zip(parts, whole, strict=True)] == pytest.approx([0] * len(whole), abs=1e-5)


def test_accumulation_of_other_samples_differs() -> None:
    """The check of the one above: rows that are counted per batch draw the same noise twice."""
    wrong, whole = one_iteration(2, per_rank=True), one_iteration(4)
    assert all(distance(a, b) > 1e-2 for a, b in zip(wrong, whole, strict=True))


def test_a_batch_that_does_not_divide_is_refused_with_both_numbers() -> None:
    with pytest.raises(ValueError, match="global_batch 4 is not a multiple of 1 processes x batch 3"):
        fit(tiny_distill(), Prompts(3))


def test_a_batch_larger_than_an_iteration_is_cut_to_it() -> None:
    cut, whole = one_iteration(8), one_iteration(4)
    assert [distance(a, b) for a, b in zip(cut, whole, strict=True)] == [0] * len(whole)


def test_checkpointing_changes_no_gradient() -> None:
    for a, b in zip(one_iteration(4, checkpointing=True), one_iteration(4), strict=True):
        assert distance(a, b) < 1e-5


# ---- every switch of the state runs

SWITCHES: tuple[tuple[dict[str, Any], dict[str, Any]], ...] = (
    ({"state_visibility": "replace"}, {}),
    ({"state_visibility": "previous"}, {"state_loss": "dmd"}),
    ({"state_visibility": "previous", "cache_grad": "straight_through"}, {}),
    ({"state_visibility": "previous", "state_grad": 1}, {}),
    ({"state_frames": 3, "past_frames": 6}, {"state_loss": "dmd", "state_stands_for": "first"}),
    ({"chunk_frames": 1}, {"state_loss": "dmd"}),
    ({"state_init": "first_frame"}, {"state_loss": "dmd"}),
    ({"state_position": "behind", "clean_pass_sees_old_state": False}, {}),
    ({"warmup": "growing", "context_renoise": True}, {}),
    ({"state_grad": 2, "chunk_frames": 1}, {}),
    ({"anchor": "static"}, {"horizon_law": "none"}),
    ({"anchor": "none", "state_frames": 0, "position": "absolute"}, {"horizon_weight": 0.0}),
)


@pytest.mark.parametrize(("stream", "kwargs"), SWITCHES, ids=[f"{s} {k}" for s, k in SWITCHES])
@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_every_switch_runs(stream: dict[str, Any], kwargs: dict[str, Any], seed: int) -> None:
    """Two seeds, because they end at different levels of the schedule."""
    gradients = Gradients()
    fit(tiny_distill(stream, seed=seed, **kwargs), Prompts(), gradients)
    assert len(gradients.steps) == 2
    for name, g in {**gradients.steps[0][0], **gradients.steps[1][0]}.items():
        assert torch.isfinite(g).all() and g.norm() > 0, name


def test_the_two_seeds_end_at_different_levels() -> None:
    from adastate.diffusion.noise import shared_integer

    assert {shared_integer(2, seed, 0, "student") for seed in (0, 1)} == {0, 1}


@pytest.mark.parametrize("stream", [{}, {"state_frames": 3}])
def test_a_state_that_nothing_teaches_is_refused(stream: dict[str, Any]) -> None:
    with pytest.raises(
        ValueError, match="state_visibility: previous, a detached cache and no state_loss nothing trains"
    ):
        tiny_distill({"state_visibility": "previous", **stream})


def test_why_that_is_refused() -> None:
    """With `previous` and a detached cache the emitted frames do not hang on the state at all."""
    distill = tiny_distill({"state_visibility": "previous"}, state_loss="dmd")
    text = distill.student.embed(["a"])
    noise = SampleNoise(0, 0, [0], "x")
    chunks = rolled_out(distill.student, text, noise, 6, Exits(1))
    loss = torch.cat([c.content for c in chunks], 1).sum()
    states = [c.state for c in chunks if c.state is not None]
    assert len(states) == 2
    assert all(g is None or g.abs().max() == 0 for g in torch.autograd.grad(loss, states, allow_unused=True))


@pytest.mark.parametrize("stream", [{"anchor": "none", "state_frames": 0}, {"anchor": "static"}, {"state_frames": 4}])
def test_a_state_loss_needs_a_state_of_its_chunk(stream: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="state_loss: dmd needs anchor: state with at most as many frames as a chunk"):
        tiny_distill(stream, state_loss="dmd")


# ---- the run


def test_the_average_is_saved(tmp_path: Path) -> None:
    distill = tiny_distill(out=str(tmp_path / "student.safetensors"))
    fit(distill, Prompts())
    saved = DiT(SIZE)
    load_weights(saved, str(tmp_path / "student.safetensors"))
    for k, v in distill.student.ema.net.state_dict().items():
        assert torch.equal(v, saved.state_dict()[k])
    assert any(changed(distill.student.net, weights(saved))), "0.99 of it is still the beginning"


def test_streams_come_from_the_average() -> None:
    distill = tiny_distill()
    before = torch.cat([c.content for c in distill.stream(["red"], 6)], 1)
    with torch.no_grad():
        for p in distill.student.net.parameters():
            p += 1
    assert torch.equal(before, torch.cat([c.content for c in distill.stream(["red"], 6)], 1))
    assert before.shape == (1, 6, *SHAPE) and SHAPE[1:] == GRID
    assert not before.requires_grad


# ---- replay


@pytest.mark.parametrize(
    ("stream", "options"),
    [
        ({}, {}),
        ({"state_frames": 3, "chunk_frames": 3}, {"state_loss": "dmd"}),
        ({"chunk_frames": 1, "state_visibility": "replace"}, {"horizon_weight": 4.0}),
        ({"anchor": "none", "state_frames": 0, "context_renoise": True}, {}),
        ({"state_init": "first_frame"}, {"objective": SID}),
    ],
    ids=str,
)
def test_replay_gives_equal_gradients(stream: dict[str, Any], options: dict[str, Any]) -> None:
    whole, parts = (gradients_of(2, stream, replay=replay, **options) for replay in (False, True))
    assert len(whole) == len(parts) == 4
    for a, b in zip(whole, parts, strict=True):
        assert distance(b, a) < 1e-4


def test_replay_keeps_the_activations_of_one_chunk() -> None:
    """Bytes of what autograd keeps, at the most, over a rollout of 2 and of 6 chunks."""

    def most(frames: int, replay: bool) -> int:
        distill = tiny_distill({"chunk_frames": 1}, replay=replay, student_every=1, critic_updates=0)
        distill.student.rollout_frames = frames
        alive, peak = 0, 0

        class Kept:
            def __init__(self, tensor: Tensor) -> None:
                nonlocal alive, peak
                self.tensor, self.bytes = tensor, tensor.numel() * tensor.element_size()
                alive += self.bytes
                peak = max(peak, alive)

            def __del__(self) -> None:
                nonlocal alive
                alive -= self.bytes

        with torch.autograd.graph.saved_tensors_hooks(Kept, lambda kept: kept.tensor):
            fit(distill, Prompts())
        return peak

    assert most(6, False) > 2 * most(2, False)
    assert most(6, True) < 1.3 * most(2, True)


def test_what_replay_needs() -> None:
    for stream, options in (
        ({"cache_grad": "straight_through"}, {}),
        ({"state_grad": 1}, {}),
    ):
        with pytest.raises(ValueError, match="replay sends gradients back chunk by chunk: it needs"):
            tiny_distill(stream, replay=True, **options)


def test_a_length_in_which_nothing_is_trained_is_refused() -> None:
    for iterations in (0, -5):
        with pytest.raises(ValueError, match=f"iterations is {iterations}: a run has at least 1"):
            tiny_distill(iterations=iterations)
    few = tiny_distill(iterations=6, student_every=2)
    with pytest.raises(ValueError, match="max_steps 8 ends the run before its 6 iterations, which are 9 steps"):
        fit(few, Prompts(), max_steps=8)
    assert few.iteration == 0
