"""Training with actions: whatever is scored, taught or rolled out has those of its own frames."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from adastate.diffusion.noise import SampleNoise
from adastate.models.actions import Steering, given
from adastate.stream import Exits, PromptSwitch, StateCache
from adastate.training.initializations import (
    Consistency,
    DiffusionForcing,
    OdeRegression,
    TeacherForcing,
    causal_forward,
)
from adastate.training.initializations.flow_matching import noised_clips
from adastate.training.objectives import DMD, SID
from adastate.training.rollout_sampler import LongRollout
from adastate.training.streaming_rollouts import StreamBatch, StreamPool
from adastate.training.student import Student
from adastate.training.student_rollouts import MicroBatch, RolloutDraw, rollout_window
from adastate.types import Batch
from adastate.weights import save_weights
from tests.support.rig import Gradients, Pictures, Prompts, distance, fit, gradients_of, tiny_distill, tiny_student
from tests.support.tiny import SHAPE, SIZE, normal, random_net, spec

PROMPTS = ["red ball", "slow snow"]
FLOWN = (normal(2, 12, 3, seed=5) > 0).float()
CLIPS = Batch(torch.tensor([4, 5]), PROMPTS, latents=normal(2, 6, *SHAPE, seed=4), actions=FLOWN[:, :6])
ODE = Batch(
    CLIPS.index,
    PROMPTS,
    trajectory=normal(2, 5, 6, *SHAPE, seed=3),
    levels=torch.tensor([1000.0, 970.0, 833.333, 400.0, 0.0]),
    actions=FLOWN[:, :6],
)
LAYER = "action_embedding.weight"


def noise(purpose: str = "x") -> SampleNoise:
    return SampleNoise(0, 0, [0, 1], purpose)


def streamed(student: Student, frames: int = 6, **kwargs: Any) -> Tensor:
    return torch.cat([c.content for c in student.stream(PROMPTS, frames, **kwargs)], 1)


def silenced(net: nn.Module) -> None:
    with torch.no_grad():
        net.get_parameter(LAYER).zero_()


# ---- streams of the student


def test_a_student_does_as_it_is_steered() -> None:
    student, plain = tiny_student(actions=3), tiny_student()
    alone = streamed(student)
    assert torch.equal(alone, streamed(plain))
    flown = streamed(student, actions=FLOWN)
    assert not torch.allclose(flown, alone, atol=1e-2)
    assert torch.equal(streamed(student, 12, actions=FLOWN)[:, :6], flown)
    assert torch.equal(flown, streamed(student, actions=Steering(given(FLOWN))))
    with pytest.raises(ValueError, match="this network cannot be steered: its size has no `actions`"):
        streamed(plain, actions=FLOWN)


def test_given_frames_are_not_steered_and_the_first_action_is_of_the_first_new_frame() -> None:
    student, before = tiny_student(actions=3), normal(2, 3, *SHAPE)
    flown = streamed(student, given=before, actions=FLOWN)
    assert not torch.allclose(flown, streamed(student, given=before), atol=1e-2)
    assert torch.equal(flown, streamed(student, given=before, actions=Steering(given(FLOWN), 3)))


# ---- initialisation


@pytest.mark.parametrize(
    ("init", "batch"),
    [
        (OdeRegression(), ODE),
        (OdeRegression(state_target="last"), ODE),
        (OdeRegression(noisy_context=True), ODE),
        (TeacherForcing(), CLIPS),
        (TeacherForcing("first"), CLIPS),
        (DiffusionForcing(), CLIPS),
    ],
)
def test_every_initialisation_teaches_the_layer(init: Any, batch: Batch) -> None:
    student = tiny_student(actions=3)

    def loss(with_actions: bool) -> Tensor:
        told = batch if with_actions else replace(batch, actions=None)
        return init.loss(student.networks, told, SampleNoise(0, 0, [4, 5], "init"))

    found = loss(True)
    found.backward()
    gradient = student.net.get_parameter(LAYER).grad
    assert gradient is not None and float(gradient.norm()) > 0
    assert not torch.allclose(found, loss(False), rtol=1e-4)
    silenced(student.net)
    assert torch.allclose(loss(True), loss(False), rtol=1e-6)


def test_consistency_steers_all_networks_but_the_unguided_half(tmp_path: Any) -> None:
    save_weights(random_net(replace(SIZE, actions=3), seed=9), tmp_path / "ar.safetensors")
    ar = str(tmp_path / "ar.safetensors")
    init = Consistency(ar, steps=8, guidance=2.0)
    student = tiny_student(init={"init": init}, actions=3)
    told: list[bool] = []
    for net in (student.frozen_net, student.ema.net, student.net):
        assert net is not None
        net.register_forward_pre_hook(
            lambda _, args, kwargs: told.append(kwargs["actions"] is not None), with_kwargs=True
        )
    loss = init.loss(student.networks, CLIPS, SampleNoise(0, 0, [4, 5], "init"))
    loss.backward()
    assert told == [True, False, True, True]
    gradient = student.net.get_parameter(LAYER).grad
    assert gradient is not None and float(gradient.norm()) > 0


def clips_with_noise(student: Student) -> causal_forward.Pairs:
    return noised_clips(CLIPS, SampleNoise(0, 0, [4, 5], "init"), student.spec, "this test")


@torch.no_grad()
@pytest.mark.parametrize("mask", ["teacher_forcing", "block_causal"])
def test_a_block_depends_on_no_later_action(mask: str) -> None:
    student = tiny_student(actions=3)
    pairs, other = (
        clips_with_noise(student),
        FLOWN[:, :6].clone(),
    )
    other[:, 3:] = 1 - other[:, 3:]

    def velocity(actions: Tensor) -> Tensor:
        common = (pairs.t, student.embed(PROMPTS), student.spec, given(actions))
        if mask == "block_causal":
            return causal_forward.block_causal_forward(student.net, pairs.noisy, *common)
        return causal_forward.teacher_forcing_forward(student.net, pairs.noisy, pairs.clean, *common)

    a, b = velocity(FLOWN[:, :6]), velocity(other)
    assert torch.equal(a[:, :3], b[:, :3]) and not torch.allclose(a[:, 3:], b[:, 3:], atol=1e-3)


@torch.no_grad()
def test_law_1_holds_with_actions() -> None:
    """Without a state and with all of the past, teacher forcing at once is teacher forcing through the cache."""
    student = tiny_student(actions=3)
    stream = spec(anchor="none", state_frames=0, position="absolute", past_frames=None)
    pairs, text = (
        clips_with_noise(student),
        student.embed(PROMPTS),
    )
    at_once = causal_forward.teacher_forcing_forward(
        student.net, pairs.noisy, pairs.clean, pairs.t, text, stream, pairs.actions
    )
    through_cache, _ = causal_forward.teacher_forcing_through_cache(student.net, pairs, text, stream, "first")
    assert torch.allclose(at_once, through_cache, atol=2e-5)


# ---- rollouts and scores


def part(student: Student, flown: Tensor | None = FLOWN, **options: Any) -> MicroBatch:
    return MicroBatch(student.embed(["red ball"] * 2), torch.arange(2), steering=Steering.of(flown), **options)


def test_teacher_student_and_critic_are_told_the_same() -> None:
    distill = tiny_distill(actions=3, student_every=1)
    told: dict[str, list[Tensor]] = {"teacher": [], "critic": []}
    for name, net in (("teacher", distill.teacher.net), ("critic", distill.critic.net)):
        net.register_forward_pre_hook(
            lambda _, args, kwargs, name=name: told[name].append(kwargs["actions"]), with_kwargs=True
        )
    fit(distill, Prompts(flown=6))
    flown = torch.stack([given((normal(6, 3, seed=i) > 0).float()[None])[0] for i in range(4)])
    assert [a.shape[0] for a in told["teacher"]] == [8] and len(told["critic"]) == 2
    assert torch.equal(told["teacher"][0], torch.cat([flown, torch.zeros_like(flown)])), "u is told nothing"
    assert all(torch.equal(a, flown) for a in told["critic"])
    assert distill.iteration == 1


@pytest.mark.parametrize("first", [0, 1, 2])
def test_a_window_has_its_own_slice_of_the_actions(first: int) -> None:
    student = tiny_student(actions=3)
    found = rollout_window(student, part(student), noise(), RolloutDraw(Exits(1), window_start=first), grad=False)
    assert found.actions is not None and torch.equal(found.actions, given(FLOWN)[:, 3 * first : 3 * first + 6])
    stream = student.stream(["red ball"] * 2, 12, noise=noise(), actions=FLOWN)
    expected = torch.cat([c.content for c in stream], 1)[:, 3 * first : 3 * first + 6]
    assert torch.allclose(found.x, expected, atol=1e-5)


def test_a_window_whose_first_chunk_is_context_has_the_actions_of_that_too() -> None:
    student = tiny_student(actions=3, switch={"kind": "recache"})
    both = part(student, next_text=student.embed(["slow snow"] * 2))
    for codec, switch in ((student.codec, 3), (Pictures(), None), (Pictures(), 2)):
        student.codec = codec
        found = rollout_window(
            student, both, noise(), RolloutDraw(Exits(1), window_start=2, switch_chunk=switch), grad=True
        )
        assert found.context == 3 and found.actions is not None
        assert torch.equal(found.actions, given(FLOWN)[:, 6:12])


def test_a_recache_in_training_is_that_of_a_stream() -> None:
    student = tiny_student(actions=3, switch={"kind": "recache"})
    both = part(student, next_text=student.embed(["slow snow"] * 2))
    found = rollout_window(student, both, noise(), RolloutDraw(Exits(1), window_start=2, switch_chunk=2), grad=False)
    switches = {2: PromptSwitch(["slow snow"] * 2)}
    stream = student.stream(["red ball"] * 2, 12, switches=switches, noise=noise(), actions=FLOWN)
    assert torch.allclose(found.x, torch.cat([c.content for c in stream], 1)[:, 6:], atol=1e-5)


def test_real_clips_are_denoised_with_their_actions() -> None:
    distill = tiny_distill(actions=3, source="noised")
    clips = normal(2, 6, *SHAPE)
    found = [
        distill.student_sample(replace(part(distill.student, flown), latents=clips), "s", grad=False)
        for flown in (FLOWN[:, :6], None)
    ]
    assert torch.equal(found[0].actions, given(FLOWN[:, :6])) and found[1].actions is None  # type: ignore[arg-type]
    assert not torch.allclose(found[0].x, found[1].x, atol=1e-3)


@pytest.mark.parametrize("objective", [DMD, SID])
@pytest.mark.parametrize("state_loss", ["none", "dmd"])
def test_every_objective_trains_the_layers(objective: Any, state_loss: Any) -> None:
    both = gradients_of(actions=3, data=Prompts(flown=6), objective=objective, state_loss=state_loss)
    for gradient, name in zip(both, ("student", "critic"), strict=True):
        assert float(gradient[f"{name}.net.{LAYER}"].norm()) > 0
    without = gradients_of(actions=3, objective=objective, state_loss=state_loss)
    assert distance({k: v for k, v in both[0].items() if k in without[0]}, {**without[0]}) > 1e-3


def test_a_replay_and_micro_batches_give_the_gradients_of_one_batch() -> None:
    plain = gradients_of(actions=3, data=Prompts(flown=6))
    for other in ({"replay": True}, {"data": Prompts(2, flown=6)}, {"checkpointing": True}):
        found = gradients_of(**{"actions": 3, "data": Prompts(flown=6), **other})
        assert all(distance(a, b) < 2e-3 for a, b in zip(found, plain, strict=True)), other


def test_long_rollouts_and_staircases_train_with_actions() -> None:
    for rollouts in (LongRollout(12), LongRollout(12, "streaming")):
        distill = tiny_distill(actions=3, long_rollout=rollouts, student_every=1, iterations=3)
        seen = Gradients()
        fit(distill, Prompts(flown=12), seen)
        assert distill.iteration == 3
        assert all(any(name.endswith(LAYER) for name in gradient) for gradient, _ in seen.steps)


# ---- streams that are carried on


def carried(student: Student, flown: Tensor = FLOWN) -> StreamBatch:
    return StreamBatch(StateCache(student.spec), student.embed(["red ball"] * 2), steering=Steering.of(flown))


def test_a_carried_stream_goes_on_with_its_own_actions() -> None:
    student, source = tiny_student(actions=3), noise()
    one = carried(student)
    with torch.no_grad():
        samples = [one.go_on(student, source, RolloutDraw(Exits(1)), grad=False) for _ in range(3)]
    whole = torch.cat([samples[0].x, *(s.x[:, 3:] for s in samples[1:])], 1)
    stream = student.stream(["red ball"] * 2, 12, noise=noise(), actions=FLOWN)
    assert torch.allclose(whole, torch.cat([c.content for c in stream], 1), atol=1e-6)
    for first, sample in zip((0, 3, 6), samples, strict=True):
        assert sample.actions is not None and torch.equal(sample.actions, given(FLOWN)[:, first : first + 6])


def test_beyond_the_data_the_last_action_holds_for_all_three_networks() -> None:
    student = tiny_student(actions=3)
    one = carried(student, FLOWN[:, :6])
    for _ in range(2):
        sample = one.go_on(student, noise(), RolloutDraw(Exits(1)), grad=False)
    assert sample.actions is not None
    assert torch.equal(sample.actions[:, 3:], given(FLOWN[:, 5:6]).expand(-1, 3, -1))


def test_a_checkpoint_carries_the_actions_of_streams() -> None:
    student = tiny_student(actions=3)
    pool = StreamPool(student, 12)
    pool.begin([part(student)])
    pool.next_sample(part(student), noise(), RolloutDraw(Exits(1)), grad=False)
    other = StreamPool(student, 12)
    other.load_state_dict(pool.state_dict())
    other.begin([part(student, None)])
    a, b = (p.next_sample(part(student, None), noise("y"), RolloutDraw(Exits(1)), grad=False) for p in (pool, other))
    assert torch.equal(a.x, b.x) and a.actions is not None and b.actions is not None
    assert torch.equal(a.actions, b.actions)
    old = {k: v for k, v in pool.state_dict().items() if k != "actions"}
    other.load_state_dict(old)
    other.begin([part(student, None)])
    assert other.next_sample(part(student), noise("z"), RolloutDraw(Exits(1)), grad=False).steering is None, (
        "as older versions wrote it"
    )
