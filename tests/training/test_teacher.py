"""The bidirectional teacher: guidance, sampling and its training step."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch

from adastate.diffusion import flow
from adastate.diffusion.noise import SampleNoise
from adastate.diffusion.solvers import unipc, unipc_levels
from adastate.encoders import TinyCodec, TinyText
from adastate.optim.settings import OptimizerSettings
from adastate.training.teacher import Teacher
from adastate.types import Batch
from adastate.weights import load_network
from tests.support.rig import Gradients, distance, fit
from tests.support.tiny import GRID, SHAPE, SIZE, normal, randomise
from tests.training.test_initialization import Batches

X, T = normal(2, 3, *SHAPE), torch.tensor([900.0, 200.0])


def tiny_teacher(**kwargs: Any) -> Teacher:
    torch.manual_seed(0)
    codec = TinyCodec(None, width=4, channels=SIZE.channels, group=2)
    teacher = Teacher(SIZE, codec, TinyText(SIZE.text_tokens, SIZE.text_width), GRID, **kwargs)
    randomise(teacher.net)
    if teacher.ema is not None:
        teacher.ema.net.load_state_dict(teacher.net.state_dict())
    return teacher


@torch.no_grad()
def test_guidance_is_c_plus_w_times_c_minus_u() -> None:
    teacher = tiny_teacher(guidance=3.0)
    c, u = teacher.embed(["red ball", "slow snow"]), teacher.embed([""])
    cond, uncond = (flow.to_x0(X, teacher.net(X, T, p), T, 5.0) for p in (c, u.expand(2, -1, -1)))
    assert torch.allclose(teacher.x0(X, T, c, u), cond + 3 * (cond - uncond), atol=1e-4)
    assert torch.allclose(teacher.x0(X, T, c), cond, atol=1e-5)
    assert torch.allclose(tiny_teacher(guidance=0.0).x0(X, T, c, u), cond, atol=1e-5)
    assert not torch.allclose(cond, uncond, atol=1e-3)


@torch.no_grad()
def test_a_trajectory_is_euler_s_path() -> None:
    teacher = tiny_teacher(guidance=1.0, timestep_shift=1.0, negative_prompt="blue rain")
    levels = torch.tensor([1.0, 0.5, 0.2, 0.0])
    path = teacher.trajectory(["red", "snow"], X, levels)
    assert path.shape == (2, 4, 3, *SHAPE) and torch.equal(path[:, 0], X)
    c, u = teacher.embed(["red", "snow"]), teacher.embed(["blue rain"]).expand(2, -1, -1)
    x = X
    for i, (now, then) in enumerate(pairwise(levels)):
        t = (1000 * now).expand(2)
        v = 2 * teacher.net(x, t, c) - teacher.net(x, t, u)
        x = x + (then - now) * v
        assert torch.allclose(path[:, i + 1], x, atol=1e-4 * float(x.abs().max())), i
    last = teacher.x0(path[:, 2], torch.full((2,), 200.0), c, u)
    assert torch.allclose(path[:, 3], last, atol=1e-5), "the last step goes to x0"


def test_samples_are_those_of_their_seed_and_row() -> None:
    teacher = tiny_teacher()
    both = teacher.sample(["red", "snow"], 3, steps=2)
    assert both.shape == X.shape and not both.requires_grad
    assert torch.allclose(teacher.sample(["red"], 3, steps=2), both[:1], atol=1e-4)
    assert not torch.allclose(teacher.sample(["red"], 3, steps=2, seed=1), both[:1], atol=1e-2)


@torch.no_grad()
def test_unipc_tells_the_network_cut_timesteps_and_steps_by_exact_levels() -> None:
    teacher = tiny_teacher(solver="unipc", guidance=2.0, negative_prompt="blue rain")
    levels, times = unipc_levels(4, 3.0)
    c, u = teacher.embed(["red", "snow"]), teacher.embed(["blue rain"]).expand(2, -1, -1)
    start = SampleNoise(0, 0, range(2), "sample").normal(3, *SHAPE)

    def guided(x: torch.Tensor, i: int) -> torch.Tensor:
        t = torch.full((2,), float(times[i]))
        return 3 * teacher.net(x, t, c) - 2 * teacher.net(x, t, u)

    expected = unipc(guided, start, levels)[-1]
    assert torch.allclose(teacher.sample(["red", "snow"], 3, steps=4, shift=3.0), expected, atol=1e-4)
    euler = tiny_teacher(guidance=2.0, negative_prompt="blue rain").sample(["red", "snow"], 3, steps=4, shift=3.0)
    assert not torch.allclose(euler, expected, atol=1e-3)


def test_a_training_step_moves_net_and_average() -> None:
    teacher, gradients = tiny_teacher(optimizer=OptimizerSettings(warmup=1)), Gradients()
    before = teacher.net.head.head.weight.detach().clone()
    fit(teacher, Batches(Batch(torch.tensor([0, 1]), ["red", "snow"], latents=X)), gradients, max_steps=1)
    assert teacher.iteration == 1
    assert not torch.equal(teacher.net.head.head.weight, before)
    assert teacher.ema is not None and not torch.equal(teacher.ema.net.head.head.weight, before)
    assert all(g.norm() > 0 for g in gradients.steps[0][0].values())


def test_without_an_average_the_weights_themselves_are_saved(tmp_path: Path) -> None:
    out = tmp_path / "teacher.safetensors"
    teacher = tiny_teacher(optimizer=OptimizerSettings(warmup=1), average=None, out=str(out), save_every=1)
    saved = list[int]()
    teacher._save = lambda last=False, real=teacher._save: (saved.append(teacher.iteration), real(last))  # type: ignore
    fit(teacher, Batches(Batch(torch.tensor([0, 1]), ["red", "snow"], latents=X)), max_steps=2)
    assert saved[:2] == [0, 1] and teacher.iteration == 2, "while it trains, too, each step with noise of its own"
    kept = load_network(SIZE, str(out)).get_parameter("head.head.weight")
    assert torch.equal(kept, teacher.net.head.head.weight)


@pytest.mark.parametrize("dropout", [0.0, 0.5, 1.0])
def test_prompts_that_are_dropped_become_the_negative_one(dropout: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each row by itself: guidance asks the network about the negative prompt, which it knows from here."""
    teacher, told = tiny_teacher(dropout=dropout, negative_prompt="blue rain"), list[torch.Tensor]()
    monkeypatch.setattr(teacher, "log", lambda *args, **kwargs: None)
    predicted = flow.predicted
    monkeypatch.setattr(flow, "predicted", lambda *given: (told.append(given[4]), predicted(*given))[1])
    teacher.training_step(Batch(torch.arange(16), ["red"] * 16, latents=normal(16, 1, *SHAPE)), 0)
    red, negative = teacher.embed(["red", "blue rain"])
    kept = sum(torch.equal(text, red) for text in told[0])
    assert sum(torch.equal(text, negative) for text in told[0]) == 16 - kept
    assert kept == {0.0: 16, 1.0: 0}.get(dropout, kept) and (dropout in (0, 1)) == (kept in (0, 16))


def test_checkpointing_changes_no_gradient() -> None:
    steps = []
    for checkpointing in (False, True):
        seen = Gradients()
        batch = Batch(torch.tensor([0, 1]), ["red", "snow"], latents=X)
        fit(tiny_teacher(checkpointing=checkpointing), Batches(batch), seen, max_steps=1)
        steps.append(seen.steps[0][0])
    assert distance(*steps) < 1e-5


def test_a_checkpoint_leaves_the_codec_in_its_own_file() -> None:
    teacher = tiny_teacher()
    checkpoint = {"state_dict": teacher.state_dict()}
    teacher.on_save_checkpoint(checkpoint)
    assert {name.split(".")[0] for name in checkpoint["state_dict"]} == {"net", "ema"}
    other = tiny_teacher()
    other.on_load_checkpoint(checkpoint)
    other.load_state_dict(checkpoint["state_dict"])


def test_video_is_encoded_and_nothing_is_an_error() -> None:
    teacher = tiny_teacher()
    video = normal(1, 4, 3, 16, 24).clamp(-1, 1)
    assert torch.equal(
        teacher.latents(Batch(torch.tensor([0]), ["a"], video=video)),
        teacher.codec.encode(video),
    )
    with pytest.raises(ValueError, match="needs latents or video, but the datamodule gives prompts only"):
        teacher.latents(Batch(torch.tensor([0]), ["a"]))
    bare = Teacher(SIZE, average=None)
    with pytest.raises(ValueError, match="made without a codec"):
        bare.latents(Batch(torch.tensor([0]), ["a"], video=video))
    with pytest.raises(ValueError, match="made without a text encoder"):
        bare.embed(["a"])
