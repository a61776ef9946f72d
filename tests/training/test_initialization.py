"""The objectives that make a causal student, alone and through a Trainer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from adastate.diffusion import flow
from adastate.diffusion.noise import SampleNoise
from adastate.models.masks import block_causal, teacher_forcing
from adastate.training.initializations import (
    Consistency,
    DiffusionForcing,
    OdeRegression,
    TeacherForcing,
    causal_forward,
    consistency,
)
from adastate.training.initializations.causal_forward import Pairs, StateTarget
from adastate.training.initializations.flow_matching import noised_clips
from adastate.training.student import Student
from adastate.types import Batch
from adastate.weights import save_weights
from tests.parity import load
from tests.support.rig import fit, tiny_student
from tests.support.tiny import SHAPE, normal, spec

TARGETS: tuple[StateTarget, ...] = ("none", "first", "last")
PROMPTS = ["red ball", "slow snow"]
LEVELS = torch.tensor([1000.0, 970.0, 833.333, 400.0, 0.0])  # the student's 1000 and 500 become 1000 and 833.33
PATH = normal(2, 5, 6, *SHAPE, seed=3)
ODE = Batch(torch.tensor([4, 5]), PROMPTS, trajectory=PATH, levels=LEVELS)
CLIPS = Batch(torch.tensor([4, 5]), PROMPTS, latents=normal(2, 6, *SHAPE, seed=4))


class Batches(pl.LightningDataModule):
    def __init__(self, batch: Batch) -> None:
        super().__init__()
        self.rows = batch

    def train_dataloader(self) -> DataLoader[Batch]:
        return DataLoader([self.rows] * 4, batch_size=None)


class LastLoss(pl.Callback):
    values: list[float]

    def on_fit_start(self, *_: object) -> None:
        self.values = []

    def on_train_batch_end(self, trainer: pl.Trainer, module: pl.LightningModule, outputs: Any, *_: object) -> None:
        self.values.append(float(outputs["loss"]))


def made(student: Student, batch: Batch) -> Pairs:
    noise = SampleNoise(0, 0, [4, 5], "init")
    if isinstance(student.init, OdeRegression):
        return student.init.pairs(batch, noise, student.spec)
    return noised_clips(batch, noise, student.spec, type(student.init).__name__)


@torch.no_grad()
def test_all_blocks_at_once_are_the_reference_s_teacher_forcing() -> None:
    f = load("B_teacher_forcing_block3")
    x, clean = (f.inputs[name].transpose(1, 2) for name in ("x", "clean_x"))
    stream = spec(anchor="none", state_frames=0, position="absolute", past_frames=None)
    found = causal_forward.teacher_forcing_forward(f.net(), x, clean, f.inputs["t"], f.inputs["context"], stream)
    assert torch.allclose(found.transpose(1, 2), f.outputs["flow"], atol=2e-5)


def test_ode_pairs_are_points_of_the_path_at_the_student_s_levels() -> None:
    student = tiny_student(chunk_frames=2)
    found = made(student, ODE)
    noisy, clean, t, target = found.noisy, found.clean, found.t, found.target
    assert torch.equal(clean, PATH[:, -1]) and torch.equal(target, clean)
    seen = set()
    for b in range(2):
        for f in range(6):
            j = LEVELS.tolist().index(float(t[b, f]))
            assert torch.equal(noisy[b, f], PATH[b, j, f])
            assert t[b, f] == t[b, f - f % 2], "one level a chunk"
            seen.add(j)
    assert seen == {0, 2}


def test_a_causal_teacher_s_past_is_the_student_s() -> None:
    other = Batch(ODE.index, PROMPTS, CLIPS.latents, trajectory=PATH, levels=LEVELS)
    found = made(tiny_student(), other)
    assert torch.equal(found.clean, CLIPS.latents) and torch.equal(found.target, PATH[:, -1])
    assert torch.equal(found.noisy, made(tiny_student(), ODE).noisy)


def test_chunks_of_two_sizes_are_refused() -> None:
    for init, batch in ((OdeRegression(), ODE), (TeacherForcing(), CLIPS)):
        student = tiny_student(chunk_frames=2, first_chunk_frames=4, init={"init": init})
        with pytest.raises(ValueError, match="knows chunks of one size: leave first_chunk_frames 4 to the stream"):
            made(student, batch)


def test_forced_pairs_are_noised_clips() -> None:
    student = tiny_student(init={"init": TeacherForcing()})
    found, t = made(student, CLIPS), made(student, CLIPS).t
    assert torch.equal(found.clean, CLIPS.latents)
    assert torch.allclose(flow.to_x0(found.noisy, found.target, t, student.spec.timestep_shift), found.clean, atol=1e-5)
    assert len({float(v) for v in t[:, ::3].flatten()}) == 4, "a level for every chunk and sample"
    assert torch.equal(t, t[:, ::3].repeat_interleave(3, 1))


@pytest.mark.parametrize(
    ("init", "batch"),
    [
        *((OdeRegression(state_target=target), ODE) for target in TARGETS),
        *((TeacherForcing(target), CLIPS) for target in TARGETS),
        (OdeRegression(noisy_context=True), ODE),
        (DiffusionForcing(), CLIPS),
    ],
)
def test_every_initialisation_trains(init: Any, batch: Batch) -> None:
    student = tiny_student(init={"init": init, "lr": 1e-3, "warmup": 1})
    before = {k: v.clone() for k, v in student.net.state_dict().items()}
    fit(student, Batches(batch), LastLoss(), max_steps=1)
    assert student.iteration == 1
    assert all(not torch.equal(v, before[k]) for k, v in student.net.state_dict().items())


def test_it_learns_what_it_is_taught() -> None:
    losses = LastLoss()
    student = tiny_student(init={"lr": 3e-3, "warmup": 1})
    fit(student, Batches(ODE), losses, max_steps=12)
    assert min(losses.values[-3:]) < 0.7 * losses.values[0]


def test_without_a_state_target_there_is_no_state() -> None:
    """One masked forward with the stream's own window: the loss by hand."""
    student, losses = tiny_student(past_frames=2), LastLoss()
    noisy, clean, t = made(student, ODE).noisy, made(student, ODE).clean, made(student, ODE).t
    both, times = torch.cat([clean, noisy], 1), torch.cat([torch.zeros_like(t), t], 1)
    mask = teacher_forcing(6, 3, 2)
    with torch.no_grad():
        v = student.net(both, times, student.embed(PROMPTS), positions=[*range(6)] * 2, visible=mask)[:, 6:]
    expected = (flow.to_x0(noisy, v, t, student.spec.timestep_shift) - clean).square().mean()
    fit(student, Batches(ODE), losses, max_steps=1)
    assert losses.values[0] == pytest.approx(float(expected), rel=1e-5)


@pytest.mark.parametrize(("target", "at"), [("first", [0]), ("last", [2])])
def test_a_state_is_taught_a_frame_of_its_chunk(target: Any, at: list[int]) -> None:
    student = tiny_student()
    predicted, found = causal_forward.teacher_forcing_through_cache(
        student.net, made(student, ODE), student.embed(PROMPTS), student.spec, target
    )
    assert predicted.shape == found.noisy.shape == found.target.shape == (2, 8, *SHAPE)
    end = PATH[:, -1]
    assert torch.equal(found.target, end[:, [*at, 0, 1, 2, *(3 + i for i in at), 3, 4, 5]])
    assert torch.equal(found.t[:, 0], found.t[:, 1])


def test_what_initialisation_needs() -> None:
    with pytest.raises(
        ValueError, match="OdeRegression learns from teacher trajectories; use TrajectoryData, or TeacherForcing"
    ):
        made(tiny_student(), CLIPS)
    with pytest.raises(ValueError, match="TeacherForcing needs latents"):
        made(tiny_student(init={"init": TeacherForcing()}), ODE)
    with pytest.raises(ValueError, match=r"the trajectories hold timesteps .*833\.3.* the student steps at .*937\.5"):
        made(tiny_student(denoising_steps=(1000, 750)), ODE)
    with pytest.raises(ValueError, match="state_target 'last' needs anchor: state, not 'static'"):
        tiny_student(anchor="static", init={"init": TeacherForcing("last")})
    student = tiny_student(state_frames=4, init={"init": OdeRegression(state_target="last")})
    with pytest.raises(ValueError, match="a chunk of 3 frames has none to teach 4 state frames"):
        fit(student, Batches(ODE), max_steps=1)


@pytest.mark.parametrize("init", [OdeRegression(), TeacherForcing()])
def test_clips_that_do_not_divide_into_chunks_are_refused(init: Any) -> None:
    student = tiny_student(init={"init": init})
    short = Batch(ODE.index, PROMPTS, CLIPS.latents[:, :5], trajectory=PATH[:, :, :5], levels=LEVELS)
    with pytest.raises(ValueError, match="5 frames are not a multiple of the chunk of 3; 6 would be"):
        made(student, short)


def test_a_noisy_past_is_seen_as_it_is() -> None:
    """Diffusion forcing by hand: one block-causal forward, every block at its own level."""
    student, losses = tiny_student(past_frames=3, init={"init": DiffusionForcing()}), LastLoss()
    noisy, t, target = made(student, CLIPS).noisy, made(student, CLIPS).t, made(student, CLIPS).target
    with torch.no_grad():
        v = student.net(noisy, t, student.embed(PROMPTS), visible=block_causal(6, 3, 6))
    fit(student, Batches(CLIPS), losses, max_steps=1)
    assert losses.values[0] == pytest.approx(float((v - target).square().mean()), rel=1e-5)


@pytest.fixture
def autoregressive(tmp_path: Path) -> str:
    path = tmp_path / "ar.safetensors"
    save_weights(tiny_student(seed=5).net, path)
    return str(path)


def test_consistency_is_zero_where_the_path_is_straight() -> None:
    """A network that knows the one clip there is gives the same x0 from every point of its path."""
    clean = CLIPS.latents
    assert clean is not None

    def knows(noisy: Tensor, t: Tensor) -> Tensor:
        s = (t / 1000)[:, :, None, None, None]
        return torch.where(s > 0, (noisy - clean) / s.clamp_min(1e-9), torch.zeros_like(noisy))

    noise = SampleNoise(0, 0, [4, 5], "init")
    assert float(consistency.consistency_loss(clean, noise, tiny_student().spec, 8, knows, knows, knows)) < 1e-10


def test_consistency_takes_one_step_of_the_frozen_network(autoregressive: str, monkeypatch: Any) -> None:
    init = Consistency(autoregressive, steps=8, guidance=2.0)
    student = tiny_student(init={"init": init})
    asked: list[Any] = []
    real = consistency.teacher_forcing_forward

    def spy(net: Any, noisy: Tensor, clean: Tensor, t: Tensor, *others: Any) -> Tensor:
        asked.append((net, t.clone(), torch.is_grad_enabled()))
        return real(net, noisy, clean, t, *others)

    monkeypatch.setattr(consistency, "teacher_forcing_forward", spy)
    loss = init.loss(student.networks, CLIPS, SampleNoise(0, 0, [4, 5], "init"))
    loss.backward()
    assert [a[0] for a in asked] == [student.frozen_net, student.frozen_net, student.ema.net, student.net]
    assert [a[2] for a in asked] == [False, False, False, True]
    assert bool((asked[2][1] < asked[0][1]).all()) and torch.equal(asked[0][1], asked[3][1])
    assert all(p.grad is None for p in student.frozen_net.parameters())  # type: ignore[union-attr]
    assert any(p.grad is not None for p in student.net.parameters())


def test_consistency_trains_and_says_what_it_needs(autoregressive: str) -> None:
    student = tiny_student(init={"init": Consistency(autoregressive), "lr": 1e-3, "warmup": 1})
    fit(student, Batches(CLIPS), LastLoss(), max_steps=1)
    assert student.iteration == 1
    with pytest.raises(ValueError, match="state_target 'last' needs a clean past: leave noisy_context false"):
        OdeRegression(noisy_context=True, state_target="last")
    with pytest.raises(ValueError, match=r"has no init, the objective of its initialisation: layer conf/stages/init"):
        fit(tiny_student(init={"init": None}), Batches(CLIPS), max_steps=1)


def test_clips_that_were_the_past_of_a_trajectory_are_the_past_and_not_what_is_learnt() -> None:
    """Causal ODE distillation: the target is where the autoregressive teacher arrived after these clips."""
    spec, past = tiny_student().spec, normal(2, 6, *SHAPE, seed=9)
    told = Batch(ODE.index, PROMPTS, latents=past, trajectory=ODE.trajectory, levels=ODE.levels)
    after_clips, alone = (
        OdeRegression().pairs(batch, SampleNoise(0, 0, ODE.index, "init"), spec) for batch in (told, ODE)
    )
    assert ODE.trajectory is not None
    assert torch.equal(after_clips.clean, past) and torch.equal(after_clips.target, ODE.trajectory[:, -1])
    assert torch.equal(alone.clean, ODE.trajectory[:, -1]) and torch.equal(alone.target, ODE.trajectory[:, -1])
    assert torch.equal(after_clips.noisy, alone.noisy) and torch.equal(after_clips.t, alone.t)
