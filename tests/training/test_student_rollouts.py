"""What the scores look at: rollouts, windows of long ones, real clips."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader

from adastate.diffusion.noise import SampleNoise
from adastate.stream import Exits, PromptSwitch, StateCache
from adastate.stream.rollout import rollout
from adastate.training.distill import Distill
from adastate.training.prompted_network import PromptedNetwork
from adastate.training.rollout_sampler import LongRollout
from adastate.training.student_rollouts import MicroBatch, RolloutDraw, rollout_window
from tests.support.rig import Pictures, Prompts, Rows, fit, tiny_distill, tiny_student
from tests.support.tiny import SHAPE, normal


def test_training_rolls_out_as_inference_does() -> None:
    """The same noise through the plain loop gives the same frames, at the level that all chunks share."""
    distill = tiny_distill(seed=0)
    text, index = distill.student.embed(["red", "fast"]), torch.tensor([5, 6])
    trained = distill.student_sample(MicroBatch(text, index), "student", grad=True).chunks
    quiet = distill.student_sample(MicroBatch(text, index), "student", grad=False).chunks
    with torch.no_grad():
        plain = list(
            rollout(
                PromptedNetwork(distill.student.net, text),
                SampleNoise(0, 0, [5, 6], "rollout student"),
                StateCache(distill.student.spec),
                2,
                SHAPE,
                Exits(trained[0].passes - 2),
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
        distill.set_extra_state({**distill.get_extra_state(), "iteration": i})
        levels.add(distill.student_sample(MicroBatch(text, index), "student", grad=False).chunks[0].passes - 2)
    assert levels == {0, 1}


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


def drawn(distill: Distill, iterations: int) -> list[RolloutDraw]:
    return [distill.sampler.draw(i, "s") for i in range(iterations)]


def test_a_window_of_a_long_rollout() -> None:
    """Gradient in the window alone; the frames before it are its context; places differ between iterations."""
    distill = tiny_distill(long_rollout=LongRollout(12))
    firsts = [draw.window_start for draw in drawn(distill, 12)]
    assert set(firsts) == {0, 1, 2}
    distill._iteration = firsts.index(2)
    sample = distill.student_sample(
        MicroBatch(distill.student.embed(["red ball"] * 2), torch.arange(2)), "s", grad=True
    )
    assert sample.x.shape[1] == 6 and sample.x.requires_grad
    assert [c.index for c in sample.chunks] == [2, 3] and sample.loss_mask is None, "this codec has no first picture"
    fit(tiny_distill(long_rollout=LongRollout(12), student_every=1), Prompts())


def test_a_window_from_the_middle_begins_with_a_picture_and_its_first_chunk_has_no_loss() -> None:
    distill = tiny_distill(long_rollout=LongRollout(12), horizon_weight=2.0)
    distill.student.codec = Pictures()
    text = distill.student.embed(["red ball"] * 2)
    distill._iteration = [draw.window_start for draw in drawn(distill, 40)].index(1)
    sample = distill.student_sample(MicroBatch(text, torch.arange(2)), "s", grad=True)
    assert sample.loss_mask is not None and sample.loss_mask.tolist() == [False] * 3 + [True] * 3
    assert float(sample.x[:, 0].detach().min()) == 7.0
    x = sample.x.detach().requires_grad_()
    loss, _ = distill.student_loss(replace(sample, x=x), text, distill.student.embed([""]), torch.arange(2))
    loss.backward()
    assert x.grad is not None
    assert float(x.grad[:, :3].abs().max()) == 0 and bool((x.grad[:, 3:].flatten(2).abs().amax(2) > 0).all())


@pytest.mark.parametrize("learns", [True, False], ids=["after the student", "alone"])
def test_frames_without_loss_are_none_to_the_critic_either(learns: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    distill = tiny_distill(long_rollout=LongRollout(12), student_every=1, critic_first=0 if learns else 1)
    distill.student.codec = Pictures()
    monkeypatch.setattr(distill.sampler, "draw", lambda *args: RolloutDraw(Exits(1), window_start=1))
    masks, loss = [], distill.critic.loss
    monkeypatch.setattr(distill.critic, "loss", lambda *args: (masks.append(args[3].tolist()), loss(*args))[1])
    fit(distill, Prompts())
    assert masks == [[False] * 3 + [True] * 3]


@pytest.mark.parametrize("first", [0, 1, 2])
def test_a_window_is_a_part_of_the_stream_that_inference_makes(first: int) -> None:
    """Bit for bit under the same noise; what comes before has no gradient, and no window costs what comes after."""
    student = tiny_distill().student
    part = MicroBatch(student.embed(["red ball"] * 2), torch.arange(2))
    draw = RolloutDraw(Exits(1), window_start=first)
    found = rollout_window(student, part, SampleNoise(0, 0, [0, 1], "x"), draw, grad=False)
    with torch.no_grad():
        plain = list(
            rollout(
                PromptedNetwork(student.net, part.text),
                SampleNoise(0, 0, [0, 1], "x"),
                StateCache(student.spec),
                4,
                SHAPE,
                Exits(1),
            )
        )
    assert torch.equal(found.x, torch.cat([c.content for c in plain[first : first + 2]], 1))


@pytest.mark.parametrize(
    ("switch", "at", "loss_mask"),
    [(1, 1, None), (2, 2, None), (3, 3, [False] * 3 + [True] * 3), (4, None, None), (None, None, None)],
)
def test_a_turn_within_a_window_comes_after_its_first_chunk(
    switch: int | None, at: int | None, loss_mask: list[bool] | None
) -> None:
    """The window has chunks 2 and 3. A switch before it, at it, inside, after it, and none."""
    student = tiny_student(switch={"kind": "recache"})
    old, new = student.embed(["red ball"] * 2), student.embed(["slow snow"] * 2)
    part = MicroBatch(old, torch.arange(2), next_text=new)
    found = rollout_window(
        student,
        part,
        SampleNoise(0, 0, [0, 1], "x"),
        RolloutDraw(Exits(1), window_start=2, switch_chunk=switch),
        grad=True,
    )
    assert found.text is not None and torch.equal(found.text, old if at is None else new)
    assert (None if found.loss_mask is None else found.loss_mask.tolist()) == loss_mask
    switches = {} if at is None else {at: PromptSwitch(["slow snow"] * 2)}
    stream = student.stream(["red ball"] * 2, 12, switches=switches, noise=SampleNoise(0, 0, [0, 1], "x"))
    expected = torch.cat([c.content for c in stream], 1)[:, 6:]
    assert torch.allclose(found.x, expected, atol=1e-5)
    size = 0 if loss_mask is None else 3
    assert sum(c.frames for c in found.chunks) == 6 - size and found.context == size
