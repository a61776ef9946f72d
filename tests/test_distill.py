"""Teacher, student and critic together: who learns from what, and that it does not depend on how a batch is cut."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from adastate import flow, losses
from adastate.critic import Critic
from adastate.distill import Distill, Part
from adastate.net import DiT
from adastate.noise import SampleNoise
from adastate.samples import Sample
from adastate.stream import StateCache, rollout
from adastate.student import Bound
from adastate.teacher import Teacher
from adastate.types import Chunk
from adastate.weights import load as load_weights
from tests.parity import load
from tests.rig import Gradients, Prompts, Rows, distance, fit, tiny_distill
from tests.tiny import GRID, SHAPE, SIZE, normal

Weights = dict[str, Tensor]


def weights(net: nn.Module) -> Weights:
    return {k: v.detach().clone() for k, v in net.state_dict().items()}


def changed(net: nn.Module, before: Weights) -> list[bool]:
    return [not torch.equal(v, before[k]) for k, v in net.state_dict().items()]


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
        ({"iterations": 2, "student_every": 2, "critic_updates": 2, "critic_fresh": False}, "scccc"),
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
        {"critic_updates": 2, "critic_fresh": False},
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


@pytest.mark.parametrize("batch", [3, 8])
def test_a_batch_that_does_not_divide_is_refused_with_both_numbers(batch: int) -> None:
    with pytest.raises(ValueError, match=f"global_batch 4 is not a multiple of 1 processes x batch {batch}"):
        fit(tiny_distill(), Prompts(batch))


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
    ({"state_position": "behind", "clean_sees_old": False}, {}),
    ({"warmup": "growing", "context_renoise": True}, {}),
    ({"state_grad": 2, "chunk_frames": 1}, {}),
    ({"anchor": "static"}, {"horizon_law": "none"}),
    ({"anchor": "none", "state_frames": 0, "position": "absolute"}, {"horizon_weight": 0.0}),
)


@pytest.mark.parametrize(("stream", "kwargs"), SWITCHES, ids=[f"{s} {k}" for s, k in SWITCHES])
@pytest.mark.parametrize("seed", [0, 1])
def test_every_switch_runs(stream: dict[str, Any], kwargs: dict[str, Any], seed: int) -> None:
    """Two seeds, because they end at different levels of the schedule."""
    gradients = Gradients()
    fit(tiny_distill(stream, seed=seed, **kwargs), Prompts(), gradients)
    assert len(gradients.steps) == 2
    for name, g in {**gradients.steps[0][0], **gradients.steps[1][0]}.items():
        assert torch.isfinite(g).all() and g.norm() > 0, name


def test_the_two_seeds_end_at_different_levels() -> None:
    from adastate.noise import shared_integer

    assert {shared_integer(2, seed, 0, "student") for seed in (0, 1)} == {0, 1}


@pytest.mark.parametrize("stream", [{}, {"state_frames": 3}])
def test_a_state_that_nothing_teaches_is_refused(stream: dict[str, Any]) -> None:
    with pytest.raises(
        ValueError, match="state_visibility: previous, a detached cache and no state_loss nothing teaches"
    ):
        tiny_distill({"state_visibility": "previous", **stream})


def test_why_that_is_refused() -> None:
    """With `previous` and a detached cache the emitted frames do not hang on the state at all."""
    distill = tiny_distill({"state_visibility": "previous"}, state_loss="dmd")
    text = distill.student.embed(["a"])
    noise = SampleNoise(0, 0, [0], "x")
    chunks = list(distill.student.rollout(text, noise, 6, 1, grad=True))
    loss = torch.cat([c.content for c in chunks], 1).sum()
    states = [c.state for c in chunks if c.state is not None]
    assert len(states) == 2
    assert all(g is None or g.abs().max() == 0 for g in torch.autograd.grad(loss, states, allow_unused=True))


@pytest.mark.parametrize("stream", [{"anchor": "none", "state_frames": 0}, {"anchor": "static"}, {"state_frames": 4}])
def test_a_state_loss_needs_a_state_of_its_chunk(stream: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="state_loss: dmd needs anchor: state with at most as many frames as a chunk"):
        tiny_distill(stream, state_loss="dmd")


# ---- the losses


def made_up(distill: Distill, batch: int = 2) -> list[Chunk]:
    """Two chunks whose content and states are leaves."""
    frames, states = distill.chunk_frames, distill.student.spec.state_frames
    return [
        Chunk(
            i,
            i * frames,
            normal(batch, frames, *SHAPE, seed=i).requires_grad_(),
            normal(batch, states, *SHAPE, seed=9 + i).requires_grad_(),
            3,
        )
        for i in range(6 // frames)
    ]


def student_gradients(state_loss: str, **kwargs: Any) -> tuple[list[Tensor], list[Tensor | None]]:
    distill = tiny_distill(kwargs, state_loss=state_loss)
    chunks, index = made_up(distill), torch.arange(2)
    text, negative = distill.student.embed(["red ball", "slow snow"]), distill.student.embed([""])
    x = torch.cat([c.content for c in chunks], 1)
    loss, _ = distill.student_loss(Sample(x, chunks), text, negative, index)
    loss.backward()
    contents = [c.content.grad for c in chunks]
    return [g for g in contents if g is not None], [c.state.grad if c.state is not None else None for c in chunks]


@pytest.mark.parametrize("stream", [{}, {"state_frames": 2}, {"chunk_frames": 1}])
def test_the_state_loss_touches_the_states_only(stream: dict[str, Any]) -> None:
    without, none = student_gradients("none", **stream)
    content, states = student_gradients("dmd", **stream)
    assert all(g is None for g in none), "unless it has a loss, a state is scored by nobody"
    assert all(g is not None and (g.flatten(2).abs().amax(2) > 0).all() for g in states)
    assert len(content) == len(without)
    for a, b in zip(content, without, strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize(("stands_for", "at"), [("first", [0, 1, 3, 4]), ("last", [1, 2, 4, 5])])
def test_which_frames_a_state_stands_for(stands_for: Any, at: list[int]) -> None:
    distill = tiny_distill({"state_frames": 2}, state_loss="dmd", state_stands_for=stands_for)
    chunks = made_up(distill)
    x = torch.cat([c.content for c in chunks], 1).detach()
    clip, mask = distill._states_in_place(x, chunks)
    states = torch.cat([c.state for c in chunks if c.state is not None], 1)
    others = [i for i in range(6) if i not in at]
    assert mask.tolist() == [[i in at for i in range(6)]] * 2
    assert torch.equal(clip[:, at], states) and torch.equal(clip[:, others], x[:, others])


def test_the_horizon_weighs_the_student_s_loss() -> None:
    def by_frame(alpha: float) -> Tensor:
        distill = tiny_distill(horizon_weight=alpha)
        chunks, index = made_up(distill), torch.arange(2)
        x = torch.cat([c.content for c in chunks], 1).detach().requires_grad_()
        text, negative = distill.student.embed(["a", "b"]), distill.student.embed([""])
        distill.student_loss(Sample(x, chunks), text, negative, index)[0].backward()
        assert x.grad is not None
        return x.grad.transpose(0, 1).flatten(1).norm(dim=1)

    ratio = by_frame(2.0) / by_frame(0.0)
    assert ratio.tolist() == pytest.approx(losses.horizon_weight(6, 2.0).tolist(), rel=1e-5)


def test_law_10_equal_judges_teach_nothing() -> None:
    distill = tiny_distill()
    distill.critic.net.load_state_dict(distill.teacher.net.state_dict())
    distill.teacher.guidance = 0.0
    x, text = normal(2, 6, *SHAPE), distill.student.embed(["a", "b"])
    g, gap = distill.score(x, text, text[:1], distill.noise(torch.arange(2), "score"))
    assert g.abs().max() == 0 == gap
    distill.teacher.guidance = 3.0
    assert distill.score(x, text, text[:1] * 0, distill.noise(torch.arange(2), "score"))[0].abs().max() > 0


class Recorded:
    """Fixture E's draws as a source of noise."""

    def __init__(self, inputs: dict[str, Tensor], which: str) -> None:
        self.inputs, self.which = inputs, which

    def integers(self, high: int) -> Tensor:
        assert high == 1000
        return self.inputs[f"{self.which}_randint"][:, 0]

    def normal(self, *shape: int) -> Tensor:
        noise = self.inputs[f"{self.which}_noise"]
        assert noise.shape[1:] == shape
        return noise


def judges(net: DiT, other: DiT, shift: float) -> tuple[Teacher, Critic]:
    teacher, critic = Teacher(net.size, ema=None, shift=shift), Critic(net.size, shift=shift, time_shift=5.0)
    teacher.net, critic.net = net, other
    return teacher, critic


def test_the_score_is_that_of_the_formulas() -> None:
    """Fixture E's nets and draws through Distill; with one table, where the reference has two (test_losses.py)."""
    f = load("E_dmd_default")
    teacher, critic = judges(f.net("real"), f.net("fake"), 5.0)
    distill = Distill(teacher, tiny_distill().student, critic)
    x, c, u = f.inputs["x"], f.inputs["context_cond"], f.inputs["context_uncond"]
    g, gap = distill.score(x, c, u, Recorded(f.inputs, "gen"))
    t, x_t = f.outputs["gen_timestep"][:, 0], f.outputs["gen_noisy"]
    with torch.no_grad():
        cond, uncond, fake = (
            flow.to_x0(x_t, n(x_t, t, p), t, 5.0) for n, p in ((teacher.net, c), (teacher.net, u), (critic.net, c))
        )
    real = cond + f.meta["real_guidance_scale"] * (cond - uncond)
    assert torch.allclose(g, losses.dmd_gradient(x, real, fake), atol=2e-5)
    assert gap.item() == pytest.approx((fake - real).abs().mean().item(), rel=1e-4)
    assert torch.allclose(g, f.outputs["kl_grad"], atol=2e-2), "the second table is a matter of a percent"


def test_the_critic_s_loss_is_the_reference_s_with_one_table() -> None:
    f = load("E_dmd_default")
    _, critic = judges(f.net("real"), f.net("fake"), 5.0)
    loss, bands = critic.loss(f.inputs["x"], f.inputs["context_cond"], Recorded(f.inputs, "critic"))
    assert loss.item() == pytest.approx(f.meta["critic_loss_if_raw_network_flow_were_used"], rel=1e-5)
    assert bands and all(0 < v < 10 for v in bands.values())


def test_the_critic_does_not_teach_the_student() -> None:
    distill = tiny_distill()
    x = normal(2, 6, *SHAPE).requires_grad_()
    loss, _ = distill.critic.loss(x, distill.student.embed(["a", "b"]), distill.noise(torch.arange(2), "c"))
    loss.backward()
    assert x.grad is None


# ---- rollouts


def test_training_rolls_out_as_inference_does() -> None:
    """The same noise through the plain loop gives the same frames, at the level that all chunks share."""
    distill = tiny_distill(seed=0)
    text, index = distill.student.embed(["red", "fast"]), torch.tensor([5, 6])
    trained = distill.rollout(text, index, "student", grad=True)
    quiet = distill.rollout(text, index, "student", grad=False)
    with torch.no_grad():
        plain = list(
            rollout(
                Bound(distill.student.net, text),
                SampleNoise(0, 0, [5, 6], "rollout student"),
                StateCache(distill.student.spec),
                2,
                SHAPE,
                trained[0].passes - 2,
            )
        )
    assert len({c.passes for c in trained}) == 1
    for a, b, c in zip(trained, quiet, plain, strict=True):
        assert a.content.requires_grad and not b.content.requires_grad
        assert torch.allclose(a.content, c.content, atol=1e-6) and torch.equal(b.content, c.content)


def test_exit_levels_change_with_the_iteration() -> None:
    distill = tiny_distill()
    text, index = distill.student.embed(["red"]), torch.tensor([0])
    levels = set()
    for i in range(8):
        distill.set_extra_state({"iteration": i})
        levels.add(distill.rollout(text, index, "student", grad=False)[0].passes - 2)
    assert levels == {0, 1}


# ---- the run


def test_the_average_is_saved(tmp_path: Path) -> None:
    distill = tiny_distill(out=str(tmp_path / "student.safetensors"))
    fit(distill, Prompts())
    saved = DiT(SIZE)
    load_weights(saved, str(tmp_path / "student.safetensors"))
    for k, v in distill.student.ema.net.state_dict().items():
        assert torch.equal(v, saved.state_dict()[k])
    assert any(changed(distill.student.net, weights(saved))), "0.99 of it is still the beginning"


# ---- the guard


class Poisoned(Prompts):
    """Every batch whose number is in `bad` has embeddings that are not numbers; `without` leaves those batches out."""

    def __init__(self, bad: set[int], without: bool) -> None:
        super().__init__()
        self.bad, self.without = bad, without

    def train_dataloader(self) -> Any:
        rows = Rows(self.batch, 1, 0, False)
        every = [(n, batch) for n, batch in zip(range(20), rows, strict=False)]
        kept = [replace(b, prompts=["poison"] * 4) if n in self.bad else b for n, b in every]
        return DataLoader([b for n, b in enumerate(kept) if not (self.without and n in self.bad)], batch_size=None)


def poisonable(**options: Any) -> Any:
    distill = tiny_distill(iterations=5, student_every=2, **options)
    embed = distill.student.embed
    distill.student.embed = lambda prompts: embed(prompts) * (float("nan") if "poison" in prompts[0] else 1.0)
    return distill


@pytest.mark.parametrize("bad", [{0}, {1}, {2, 3}, {1, 4, 5}])
def test_a_bad_batch_is_as_if_it_had_never_been_drawn(bad: set[int]) -> None:
    """In iterations of both networks and in those of the critic alone, also several in a row."""
    made = []
    for without in (False, True):
        distill = poisonable(patience=4)
        if without:
            fit(distill, Poisoned(bad, True))
        else:
            with pytest.warns(UserWarning, match=r"loss is nan; the update is left out"):
                fit(distill, Poisoned(bad, False))
        made.append(distill)
    assert made[0].iteration == made[1].iteration == 5
    assert (made[0].guard.skipped, made[1].guard.skipped) == (len(bad), 0)
    one, other = (m.state_dict() for m in made)
    assert [k for k, v in one.items() if isinstance(v, Tensor) and not torch.equal(v, other[k])] == []


def test_a_spike_is_caught_before_the_update() -> None:
    distill = poisonable(spike=10.0)
    distill.guard.least = 2
    embed = distill.student.embed
    distill.student.embed = lambda prompts: embed(["red"] * len(prompts)) * (300.0 if "poison" in prompts[0] else 1.0)
    real = distill.student_loss
    distill.student_loss = lambda sample, text, *rest: (
        lambda loss, found: (loss * (1e3 if float(text.abs().max()) > 100 else 1.0), found)
    )(*real(sample, text, *rest))
    with pytest.warns(UserWarning, match=r"iteration 4: student loss is .* times the usual .*; the update is left out"):
        fit(distill, Poisoned({4}, False))
    assert distill.guard.skipped == 1 and distill.iteration == 5


def test_bad_updates_in_a_row_stop_the_run() -> None:
    distill = tiny_distill(critic_first=1, patience=3)
    with torch.no_grad():
        distill.critic.net.head.head.bias.fill_(float("inf"))
    with (
        pytest.warns(UserWarning, match="critic loss is inf"),
        pytest.raises(RuntimeError, match="3 bad updates in a row, the last at iteration 0: critic loss is inf"),
    ):
        fit(distill, Prompts())


def test_streams_come_from_the_average() -> None:
    distill = tiny_distill()
    before = torch.cat([c.content for c in distill.stream(["red"], 6)], 1)
    with torch.no_grad():
        for p in distill.student.net.parameters():
            p += 1
    assert torch.equal(before, torch.cat([c.content for c in distill.stream(["red"], 6)], 1))
    assert before.shape == (1, 6, *SHAPE) and SHAPE[1:] == GRID
    assert not before.requires_grad


# ---- objectives and what they look at


def gradients_of(steps: int = 1, stream: dict[str, Any] | None = None, **options: Any) -> list[dict[str, Tensor]]:
    seen = Gradients()
    small = {"student_lr": 2e-6, "critic_lr": 2e-6, "iterations": steps, "student_every": 1}
    fit(tiny_distill(stream, **small, **options), Prompts(), seen)
    return [gradient for gradient, _ in seen.steps]


@pytest.mark.parametrize(
    ("stream", "options"),
    [
        ({}, {}),
        ({"state_frames": 3, "chunk_frames": 3}, {"state_loss": "dmd"}),
        ({"chunk_frames": 1, "state_visibility": "replace"}, {"horizon_weight": 4.0}),
        ({"anchor": "none", "state_frames": 0, "context_renoise": True}, {}),
        ({"state_init": "first_frame"}, {"objective": "sid"}),
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
        distill = tiny_distill({"chunk_frames": 1}, replay=replay, student_every=1)
        distill.student.rollout_frames = frames
        distill.weight = losses.horizon_weight(frames, 2.0)
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

        distill.critic_updates = 0
        with torch.autograd.graph.saved_tensors_hooks(Kept, lambda kept: kept.tensor):
            fit(distill, Prompts())
        return peak

    assert most(6, False) > 2 * most(2, False)
    assert most(6, True) < 1.3 * most(2, True)


def test_what_replay_needs() -> None:
    for stream, options in (
        ({"cache_grad": "straight_through"}, {}),
        ({}, {"long_frames": 12}),
        ({"state_grad": 1}, {}),
    ):
        with pytest.raises(ValueError, match="replay sends gradients back chunk by chunk: it needs"):
            tiny_distill(stream, replay=True, **options)


def test_sid_reaches_the_student_and_no_score_network() -> None:
    distill = tiny_distill(objective="sid", student_every=1)
    teacher, critic = weights(distill.teacher), weights(distill.critic)
    seen = Gradients()
    fit(distill, Prompts(), seen)
    (first, everyone), _ = seen.steps
    assert any(float(g.abs().max()) > 0 for g in first.values())
    assert not [n for n in everyone if n.startswith(("critic.", "teacher."))], "the critic has its gradient to itself"
    assert not any(changed(distill.teacher, teacher)) and any(changed(distill.critic, critic))


class Clips(Prompts):
    """Prompts with latents."""

    def train_dataloader(self) -> Any:
        rows = Rows(self.batch, 1, 0, False)
        every = [replace(b, latents=normal(4, 6, *SHAPE, seed=n)) for n, b in zip(range(4), rows, strict=False)]
        return DataLoader(every, batch_size=None)


def test_noised_clips_are_denoised_in_one_causal_pass() -> None:
    distill = tiny_distill(source="noised", student_every=1)
    fit(distill, Clips())
    assert distill.iteration == 1
    with pytest.raises(ValueError, match="source 'noised' denoises real clips: give the stage data with latents"):
        fit(tiny_distill(source="noised"), Prompts())


def drawn(distill: Distill, iterations: int) -> list[tuple[int, int, bool]]:
    found = []
    for distill._iteration in range(iterations):
        found.append(distill._draw("s"))
    return found


def test_a_window_of_a_long_rollout() -> None:
    """Gradient in the window alone; the frames before it are its context; places differ between iterations."""
    distill = tiny_distill(long_frames=12)
    firsts = [first for _, first, _ in drawn(distill, 12)]
    assert set(firsts) == {0, 1, 2}
    distill._iteration = firsts.index(2)
    sample = distill.sample(Part(distill.student.embed(["red ball"] * 2), torch.arange(2)), "s", grad=True)
    assert sample.x.shape[1] == 6 and sample.x.requires_grad
    assert [c.index for c in sample.chunks] == [2, 3] and sample.carries is None, "this codec has no first picture"
    fit(tiny_distill(long_frames=12, student_every=1), Prompts())


class Pictures(nn.Module):
    """A codec whose first latent is one picture and every other three."""

    channels, scale, fps = SIZE.channels, 1, 8

    def pictures(self, frames: int) -> int:
        return 3 * frames - 2

    def decode(self, latents: Tensor) -> Tensor:
        return latents[:, :1, :3]

    def encode(self, video: Tensor) -> Tensor:
        return torch.full((len(video), 1, *SHAPE), 7.0)


def test_a_window_from_the_middle_begins_with_a_picture_and_its_first_chunk_has_no_loss() -> None:
    distill = tiny_distill(long_frames=12, horizon_weight=2.0)
    distill.student.codec = Pictures()
    text = distill.student.embed(["red ball"] * 2)
    distill._iteration = [first for _, first, _ in drawn(distill, 40)].index(1)
    sample = distill.sample(Part(text, torch.arange(2)), "s", grad=True)
    assert sample.carries is not None and sample.carries.tolist() == [False] * 3 + [True] * 3
    assert float(sample.x[:, 0].detach().min()) == 7.0
    x = sample.x.detach().requires_grad_()
    loss, _ = distill.student_loss(replace(sample, x=x), text, distill.student.embed([""]), torch.arange(2))
    loss.backward()
    assert x.grad is not None
    assert float(x.grad[:, :3].abs().max()) == 0 and bool((x.grad[:, 3:].flatten(2).abs().amax(2) > 0).all())


def test_a_reward_weighs_the_clips_of_a_batch() -> None:
    seen: list[Tensor] = []

    def reward(video: Tensor) -> Tensor:
        seen.append(video)
        return torch.tensor([0.0, 0.5, 1.0, 1.5])

    plain, weighed = gradients_of(), gradients_of(reward=reward, reward_beta=0.0)
    assert distance(weighed[0], plain[0]) < 1e-6, "beta 0 is no weight"
    assert seen[0].shape[:3] == (4, 12, 3), "decoded"
    assert distance(gradients_of(reward=reward)[0], plain[0]) > 0.05


STAIRS: dict[str, Any] = {
    "schedule": "staircase",
    "anchor": "static",
    "state_frames": 3,
    "position": "anchor_contiguous",
    "past_frames": 9,
    "attention_frames": 12,
    "clean_keys": "recent",
}


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_staircases_and_plain_rollouts_are_mixed(share: float) -> None:
    distill = tiny_distill(STAIRS, plain_share=share, student_every=1, iterations=2)
    assert sum(uniform for _, _, uniform in drawn(distill, 60)) / 60 == pytest.approx(share, abs=0.2)
    distill._iteration = 0
    fit(distill, Prompts())
    assert distill.iteration == 2
    with pytest.raises(ValueError, match=r"plain_share 0\.5 is a share of staircases; schedule is 'uniform'"):
        tiny_distill(plain_share=0.5)


def test_every_chunk_of_a_staircase_has_its_gradient() -> None:
    distill = tiny_distill(STAIRS)
    sample = distill.sample(Part(distill.student.embed(["red"]), torch.arange(1)), "s", grad=True)
    for chunk in sample.chunks:
        distill.zero_grad()
        chunk.content.square().sum().backward(retain_graph=True)
        assert any(p.grad is not None and float(p.grad.abs().max()) > 0 for p in distill.student.net.parameters())
