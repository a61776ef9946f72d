"""Two scores compared on a sample: what teaches the student, and how much."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from adastate.diffusion import flow, losses
from adastate.diffusion.noise import SampleNoise
from adastate.models.wan import DiT
from adastate.training.critic import Critic
from adastate.training.distill import Distill
from adastate.training.objectives import DMD, SID, ScoreLevels, Scores
from adastate.training.objectives.state_score import state_score_loss, states_in_place
from adastate.training.student_rollouts import StudentSample
from adastate.training.teacher import Teacher
from adastate.types import Chunk
from tests.parity import load
from tests.support.rig import Gradients, Prompts, changed, distance, fit, gradients_of, tiny_distill, weights
from tests.support.tiny import SHAPE, normal


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
    loss, _ = distill.student_loss(StudentSample(x, chunks), text, negative, index)
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
    chunks = made_up(tiny_distill({"state_frames": 2}))
    x = torch.cat([c.content for c in chunks], 1).detach()
    clip, mask = states_in_place(StudentSample(x, chunks), stands_for)
    states = torch.cat([c.state for c in chunks if c.state is not None], 1)
    others = [i for i in range(6) if i not in at]
    assert mask.tolist() == [[i in at for i in range(6)]] * 2
    assert torch.equal(clip[:, at], states) and torch.equal(clip[:, others], x[:, others])


@pytest.mark.parametrize("context", [0, 3])
def test_the_horizon_weighs_the_frames_of_the_student_s_loss(context: int) -> None:
    """Its law runs over those that carry loss."""

    def by_frame(alpha: float) -> Tensor:
        distill = tiny_distill(horizon_weight=alpha)
        chunks, index = made_up(distill), torch.arange(2)
        x = torch.cat([c.content for c in chunks], 1).detach().requires_grad_()
        sample = StudentSample(x, chunks[context // 3 :], torch.arange(6) >= context if context else None)
        text, negative = distill.student.embed(["a", "b"]), distill.student.embed([""])
        distill.student_loss(sample, text, negative, index)[0].backward()
        assert x.grad is not None
        return x.grad.transpose(0, 1).flatten(1).norm(dim=1)

    weighed, plain = by_frame(2.0), by_frame(0.0)
    assert not weighed[:context].any() and not plain[:context].any()
    ratio = (weighed / plain)[context:].tolist()
    assert ratio == pytest.approx(losses.horizon_weight(6 - context, 2.0).tolist(), rel=1e-5)


def test_law_10_equal_judges_teach_nothing() -> None:
    distill = tiny_distill()
    distill.critic.net.load_state_dict(distill.teacher.net.state_dict())
    distill.teacher.guidance = 0.0
    x, text = normal(2, 6, *SHAPE), distill.student.embed(["a", "b"])

    def gradient(negative: Tensor) -> tuple[Tensor, Tensor]:
        scores = Scores(distill.teacher, distill.critic, distill.codec.decode, text, negative)
        return scores.dmd_gradient(x, distill.noise(torch.arange(2), "score"))

    g, gap = gradient(text[:1])
    assert g.abs().max() == 0 == gap
    distill.teacher.guidance = 3.0
    assert gradient(text[:1] * 0)[0].abs().max() > 0


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
    teacher, critic = (
        Teacher(net.size, average=None, timestep_shift=shift),
        Critic(net.size, timestep_shift=shift, training_timestep_shift=5.0),
    )
    teacher.net, critic.net = net, other
    return teacher, critic


def test_the_score_is_that_of_the_formulas() -> None:
    """Fixture E's nets and draws through Distill; with one table, where the reference has two (test_losses.py)."""
    f = load("E_dmd_default")
    teacher, critic = judges(f.net("real"), f.net("fake"), 5.0)
    distill = Distill(teacher, tiny_distill().student, critic, DMD())
    x, c, u = f.inputs["x"], f.inputs["context_cond"], f.inputs["context_uncond"]
    scores = Scores(distill.teacher, distill.critic, distill.codec.decode, c, u)
    g, gap = scores.dmd_gradient(x, Recorded(f.inputs, "gen"))
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
    found = [v for v in bands.values() if not v.isnan()]  # a band without a sample has no number
    assert found and all(0 < v < 10 for v in found)


def test_the_critic_does_not_teach_the_student() -> None:
    distill = tiny_distill()
    x = normal(2, 6, *SHAPE).requires_grad_()
    loss, _ = distill.critic.loss(x, distill.student.embed(["a", "b"]), distill.noise(torch.arange(2), "c"))
    loss.backward()
    assert x.grad is None


def test_sid_reaches_the_student_and_no_score_network() -> None:
    distill = tiny_distill(objective=SID, student_every=1)
    teacher, critic = weights(distill.teacher), weights(distill.critic)
    seen = Gradients()
    fit(distill, Prompts(), seen)
    (first, everyone), _ = seen.steps
    assert any(float(g.abs().max()) > 0 for g in first.values())
    assert not [n for n in everyone if n.startswith(("critic.", "teacher."))], "the critic has its gradient to itself"
    assert not any(changed(distill.teacher, teacher)) and any(changed(distill.critic, critic))


def test_sid_leaves_context_frames_out_of_its_averages() -> None:
    distill = tiny_distill(objective=SID, horizon_weight=2.0)
    x, mask = normal(2, 6, *SHAPE).requires_grad_(), torch.arange(6) >= 3
    text, negative, index = distill.student.embed(["a", "b"]), distill.student.embed([""]), torch.arange(2)
    scores = Scores(distill.teacher, distill.critic, distill.codec.decode, text, negative)
    loss, _ = distill.student_loss(StudentSample(x, [], mask), text, negative, index)
    real, fake = scores.x0(x, distill.noise(index, "score"), distill.objective.levels)
    weight = losses.horizon_weight(3, 2.0)
    assert torch.allclose(loss, losses.sid(x[:, 3:], real[:, 3:], fake[:, 3:], 1.0, weight))


def test_a_reward_weighs_the_clips_of_a_batch() -> None:
    seen: list[Tensor] = []

    def reward(video: Tensor) -> Tensor:
        seen.append(video)
        return torch.tensor([0.0, 0.5, 1.0, 1.5])

    plain, weighed = gradients_of(), gradients_of(reward=reward, reward_beta=0.0)
    assert distance(weighed[0], plain[0]) < 1e-6, "beta 0 is no weight"
    assert seen[0].shape[:3] == (4, 12, 3), "decoded"
    found = gradients_of(reward=reward)
    assert distance(found[0], plain[0]) > 0.05
    assert distance(found[0], gradients_of(reward=reward, reward_beta=2.0)[0]) == 0, "the published beta"


# ---- judges whose x0 is a multiple of what they see


class Judge(nn.Module):
    timestep_shift = 5.0

    def __init__(self, of: float) -> None:
        super().__init__()
        self.of, self.asked = of, list[tuple[Tensor, Tensor]]()

    def x0(self, x_t: Tensor, t: Tensor, *told: Any) -> Tensor:
        self.asked.append((t, x_t.detach()))
        return self.of * x_t


def linear_scores() -> Scores:
    return Scores(Judge(0.7), Judge(0.4), lambda x: x, normal(2, 1, 1), normal(1, 1, 1))  # type: ignore[arg-type]


def source(purpose: str) -> SampleNoise:
    return SampleNoise(0, 0, [0, 1], purpose)


def test_the_gradient_of_dmd_is_a_constant() -> None:
    """It takes no graph of teacher and critic."""
    found = linear_scores().dmd_gradient(normal(2, 6, *SHAPE).requires_grad_(), source("score"))
    assert not any(each.requires_grad for each in found)


@pytest.mark.parametrize("objective", [DMD, SID])
@pytest.mark.parametrize("context", [0, 3])
def test_the_horizon_weighs_each_objective_frame_by_frame(objective: Any, context: int) -> None:
    def by_frame(alpha: float) -> Tensor:
        x = normal(2, 6, *SHAPE).requires_grad_()
        sample = StudentSample(x, [], torch.arange(6) >= context if context else None)
        objective(horizon_weight=alpha).student_loss(sample, linear_scores(), source)[0].backward()
        assert x.grad is not None
        return x.grad.transpose(0, 1).flatten(1).norm(dim=1)[context:]

    ratio = (by_frame(2.0) / by_frame(0.0)).tolist()
    assert ratio == pytest.approx(losses.horizon_weight(6 - context, 2.0).tolist(), rel=1e-5)


@pytest.mark.parametrize("objective", [DMD, SID])
def test_an_objective_that_is_told_nothing_compares_and_weighs_as_published(objective: Any) -> None:
    found = objective()
    assert found.levels == ScoreLevels() == ScoreLevels((20.0, 980.0), None) and found.horizon_weight == 2.0


@pytest.mark.parametrize("objective", [DMD, SID])
@pytest.mark.parametrize("shift", [None, 1.0, 2.0])
def test_scores_are_compared_at_the_objective_s_own_levels(objective: Any, shift: float | None) -> None:
    """The timesteps have its shift and its range; the noise that goes with them is that of the teacher's table."""
    scores, x = linear_scores(), normal(2, 6, *SHAPE).requires_grad_()
    chunks = [Chunk(0, 0, x, normal(2, 1, *SHAPE), 3)]
    told = objective(score_shift=shift, score_timestep_range=(400.0, 900.0), state_loss="dmd")
    told.student_loss(StudentSample(x, chunks), scores, source)
    teacher, critic = scores.teacher.asked, scores.critic.asked  # type: ignore[attr-defined, union-attr]
    assert len(teacher) == 2, "the clip, and that with its state"
    assert all(torch.equal(a, b) for seen in zip(teacher, critic, strict=True) for a, b in zip(*seen, strict=True))
    for purpose, (t, x_t) in zip(("score", "state score"), teacher, strict=True):
        noise, clip = source(purpose), x.detach()
        u = noise.integers(1000)
        assert torch.equal(t, flow.draw_timesteps(u, 5.0 if shift is None else shift, 400.0, 900.0))
        if purpose == "state score":
            clip, _ = states_in_place(StudentSample(x, chunks), "last")
        assert torch.equal(x_t, flow.add_noise(clip, noise.normal(*clip.shape[1:]), t, 5.0))


@pytest.mark.parametrize("stands_for", ["first", "last"])
@pytest.mark.parametrize("context", [0, 3])
def test_the_state_loss_is_a_mean_over_the_states_alone(stands_for: Any, context: int) -> None:
    chunks = made_up(tiny_distill())
    x = torch.cat([c.content for c in chunks], 1)
    sample, levels = StudentSample(x, chunks[context // 3 :]), ScoreLevels()
    loss, curves = state_score_loss(sample, linear_scores(), source("state score"), stands_for, levels)
    clip, mask = states_in_place(sample, stands_for)
    g, gap = linear_scores().dmd_gradient(clip, source("state score"), levels)
    at = [i + (0 if stands_for == "first" else 2) for i in range(context, 6, 3)]
    assert mask.tolist() == [[i in at for i in range(6)]] * 2
    assert loss.item() == pytest.approx(0.5 * g[:, at].double().square().mean().item(), rel=1e-6)
    assert curves["student/state_score_gap"] == gap


@pytest.mark.parametrize("objective", [DMD, SID])
def test_what_the_states_lose_is_added(objective: Any) -> None:
    chunks = made_up(tiny_distill())
    sample = StudentSample(torch.cat([c.content for c in chunks], 1), chunks)
    plain, both = (objective(state_loss=s).student_loss(sample, linear_scores(), source) for s in ("none", "dmd"))
    states, _ = state_score_loss(sample, linear_scores(), source("state score"), "last", ScoreLevels())
    assert both[0].item() == pytest.approx((plain[0] + states).item(), rel=1e-6)
    assert both[1].keys() - plain[1].keys() == {"student/state_score_gap"}


@pytest.mark.parametrize("replay", [False, True])
def test_the_teacher_is_guided_by_its_own_negative_prompt(replay: bool) -> None:
    told: list[Tensor] = []

    class Listening(DMD):
        def student_loss(self, sample: StudentSample, scores: Scores, noise: Any) -> Any:
            told.append(scores.negative)
            return super().student_loss(sample, scores, noise)

    distill = tiny_distill(objective=Listening, replay=replay, student_every=1)
    distill.teacher.negative_prompt = "slow snow"
    fit(distill, Prompts())
    assert [torch.equal(n, distill.student.embed(["slow snow"])) for n in told] == [True]
    assert not torch.equal(told[0], distill.student.embed([""]))
