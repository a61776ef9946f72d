"""The student by itself: its stream, and the stages that initialise it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from adastate import flow
from adastate.net.masks import block_causal, teacher_forcing
from adastate.noise import SampleNoise
from adastate.student import Student
from adastate.types import Batch
from adastate.weights import save
from tests.rig import fit, tiny_student
from tests.tiny import SHAPE, normal

PROMPTS = ["red ball", "slow snow"]


def frames(student: Student, prompts: list[str], **kwargs: Any) -> Tensor:
    return torch.cat([c.content for c in student.stream(prompts, 6, **kwargs)], 1)


# ---- streaming


def test_a_row_of_a_stream_is_its_own() -> None:
    """Row i's noise is that of (seed, i), its prompt its own."""
    student = tiny_student()
    both = frames(student, PROMPTS)
    assert both.shape == (2, 6, *SHAPE)
    assert torch.allclose(both[:1], frames(student, PROMPTS[:1]), atol=1e-5)
    assert not torch.allclose(both[1:], frames(student, PROMPTS[1:]), atol=1e-2), "another row, another noise"
    assert not torch.allclose(both, frames(student, PROMPTS, seed=1), atol=1e-2)
    assert not torch.allclose(both[:1], frames(student, PROMPTS[1:]), atol=1e-3), "another prompt"


def test_a_longer_stream_begins_with_the_shorter() -> None:
    student = tiny_student()
    longer = torch.cat([c.content for c in student.stream(PROMPTS, 9)], 1)
    assert torch.equal(longer[:, :6], frames(student, PROMPTS))


@pytest.mark.parametrize("outside", [True, False])
def test_the_consumer_keeps_his_grad_mode(outside: bool) -> None:
    with torch.set_grad_enabled(outside):
        for chunk in tiny_student().stream(PROMPTS, 6):
            assert torch.is_grad_enabled() == outside
            assert not chunk.content.requires_grad
    assert torch.is_grad_enabled()


@pytest.mark.parametrize("given", [1, 3, 4])
def test_given_frames_stand_before_the_stream(given: int) -> None:
    student = tiny_student()
    chunks = list(student.stream(PROMPTS, 6, given=normal(2, given, *SHAPE)))
    assert [(c.index, c.start) for c in chunks] == [(0, given), (1, given + 3)]
    other = list(student.stream(PROMPTS, 6, given=normal(2, given, *SHAPE, seed=1)))
    assert not torch.allclose(chunks[0].content, other[0].content, atol=1e-3), "they are seen"


def test_impossible_lengths() -> None:
    with pytest.raises(ValueError, match="7 frames are not a multiple of the chunk of 3; 6 would be"):
        list(tiny_student().stream(PROMPTS, 7))
    with pytest.raises(ValueError, match="2 given frames do not divide into blocks of 3"):
        list(tiny_student().stream(PROMPTS, 6, given=normal(2, 2, *SHAPE)))
    with pytest.raises(ValueError, match="6 frames are not a multiple of the chunk of 4"):
        tiny_student(chunk_frames=4)


# ---- initialisation

LEVELS = torch.tensor([1000.0, 970.0, 833.333, 400.0, 0.0])  # the student's 1000 and 500 become 1000 and 833.33
PATH = normal(2, 5, 6, *SHAPE, seed=3)
ODE = Batch(torch.tensor([4, 5]), PROMPTS, trajectory=PATH, levels=LEVELS)
CLIPS = Batch(torch.tensor([4, 5]), PROMPTS, latents=normal(2, 6, *SHAPE, seed=4))


def test_ode_pairs_are_points_of_the_path_at_the_student_s_levels() -> None:
    student = tiny_student(chunk_frames=2)
    noisy, clean, t, target = student._pair(ODE, SampleNoise(0, 0, ODE.index, "init"))
    assert torch.equal(clean, PATH[:, -1]) and torch.equal(target, clean)
    seen = set()
    for b in range(2):
        for f in range(6):
            j = LEVELS.tolist().index(float(t[b, f]))
            assert torch.equal(noisy[b, f], PATH[b, j, f])
            assert t[b, f] == t[b, f - f % 2], "one level a chunk"
            seen.add(j)
    assert seen == {0, 2}


def test_forced_pairs_are_noised_clips() -> None:
    student = tiny_student(init={"init": "teacher_forcing"})
    noisy, clean, t, target = student._pair(CLIPS, SampleNoise(0, 0, CLIPS.index, "init"))
    assert torch.equal(clean, CLIPS.latents)
    assert torch.allclose(flow.to_x0(noisy, target, t, student.spec.shift), clean, atol=1e-5)
    assert len({float(v) for v in t[:, ::3].flatten()}) == 4, "a level for every chunk and sample"
    assert torch.equal(t, t[:, ::3].repeat_interleave(3, 1))


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


@pytest.mark.parametrize("target", ["none", "first", "last"])
@pytest.mark.parametrize(
    ("init", "batch"),
    [("ode", ODE), ("ode_noisy", ODE), ("teacher_forcing", CLIPS), ("diffusion_forcing", CLIPS)],
)
def test_every_initialisation_trains(init: str, batch: Batch, target: str) -> None:
    if init in ("ode_noisy", "diffusion_forcing") and target != "none":
        pytest.skip("a state is taught with a clean past only")
    student = tiny_student(init={"init": init, "init_state_target": target, "lr": 1e-3, "warmup": 1})
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
    noisy, clean, t, _ = student._pair(ODE, SampleNoise(0, 0, ODE.index, "init"))
    both, times = torch.cat([clean, noisy], 1), torch.cat([torch.zeros_like(t), t], 1)
    mask = teacher_forcing(6, 3, 2)
    with torch.no_grad():
        v = student.net(both, times, student.embed(PROMPTS), positions=[*range(6)] * 2, visible=mask)[:, 6:]
    expected = (flow.to_x0(noisy, v, t, student.spec.shift) - clean).square().mean()
    fit(student, Batches(ODE), losses, max_steps=1)
    assert losses.values[0] == pytest.approx(float(expected), rel=1e-5)


@pytest.mark.parametrize(("target", "at"), [("first", [0]), ("last", [2])])
def test_a_state_is_taught_a_frame_of_its_chunk(target: str, at: list[int]) -> None:
    student = tiny_student(init={"init_state_target": target})
    predicted, noisy, t, taught = student._forced_through_cache(
        *student._pair(ODE, SampleNoise(0, 0, ODE.index, "init")), student.embed(PROMPTS)
    )
    assert predicted.shape == noisy.shape == taught.shape == (2, 8, *SHAPE)
    end = PATH[:, -1]
    assert torch.equal(taught, end[:, [*at, 0, 1, 2, *(3 + i for i in at), 3, 4, 5]])
    assert torch.equal(t[:, 0], t[:, 1])


def test_what_initialisation_needs() -> None:
    noise = SampleNoise(0, 0, [4, 5], "init")
    with pytest.raises(ValueError, match="init: ode regresses teacher trajectories"):
        tiny_student()._pair(CLIPS, noise)
    with pytest.raises(ValueError, match="init: teacher_forcing needs latents"):
        tiny_student(init={"init": "teacher_forcing"})._pair(ODE, noise)
    with pytest.raises(ValueError, match=r"the trajectories hold timesteps .*833\.3.* the student steps at .*937\.5"):
        tiny_student(steps=(1000, 750))._pair(ODE, noise)
    with pytest.raises(ValueError, match="init_state_target 'last' needs anchor: state, not 'static'"):
        tiny_student(anchor="static", init={"init_state_target": "last"})
    student = tiny_student(state_frames=4, init={"init_state_target": "last"})
    with pytest.raises(ValueError, match="a chunk of 3 frames has none to teach 4 state frames"):
        fit(student, Batches(ODE), max_steps=1)


@pytest.mark.parametrize("init", ["ode", "teacher_forcing"])
def test_clips_that_do_not_divide_into_chunks_are_refused(init: str) -> None:
    student = tiny_student(init={"init": init})
    short = Batch(ODE.index, PROMPTS, CLIPS.latents[:, :5], trajectory=PATH[:, :, :5], levels=LEVELS)
    with pytest.raises(ValueError, match="5 frames are not a multiple of the chunk of 3; 6 would be"):
        student._pair(short, SampleNoise(0, 0, ODE.index, "init"))


def test_a_noisy_past_is_seen_as_it_is() -> None:
    """Diffusion forcing by hand: one block-causal forward, every block at its own level."""
    student, losses = tiny_student(past_frames=3, init={"init": "diffusion_forcing"}), LastLoss()
    noisy, _, t, target = student._pair(CLIPS, SampleNoise(0, 0, CLIPS.index, "init"))
    with torch.no_grad():
        v = student.net(noisy, t, student.embed(PROMPTS), visible=block_causal(6, 3, 6))
    fit(student, Batches(CLIPS), losses, max_steps=1)
    assert losses.values[0] == pytest.approx(float((v - target).square().mean()), rel=1e-5)
    other = tiny_student(init={"init": "ode_noisy"})
    with pytest.raises(ValueError, match="init: ode_noisy regresses teacher trajectories"):
        other._pair(CLIPS, SampleNoise(0, 0, [4, 5], "init"))


@pytest.fixture
def autoregressive(tmp_path: Path) -> str:
    path = tmp_path / "ar.safetensors"
    save(tiny_student(seed=5).net, path)
    return str(path)


def test_consistency_is_zero_where_the_path_is_straight(autoregressive: str) -> None:
    """A network that knows the one clip there is gives the same x0 from every point of its path."""
    student = tiny_student(init={"init": "consistency", "ar_weights": autoregressive, "ar_steps": 8})
    clean = CLIPS.latents
    assert clean is not None

    def knows(net: Any, noisy: Tensor, _: Tensor, t: Tensor, text: Tensor) -> Tensor:
        s = (t / 1000)[:, :, None, None, None]
        return torch.where(s > 0, (noisy - clean) / s.clamp_min(1e-9), torch.zeros_like(noisy))

    student._forced_at_once = knows  # type: ignore[method-assign]
    assert float(student._consistency(CLIPS, SampleNoise(0, 0, [4, 5], "init"), student.embed(PROMPTS))) < 1e-10


def test_consistency_takes_one_step_of_the_frozen_network(autoregressive: str) -> None:
    student = tiny_student(
        init={"init": "consistency", "ar_weights": autoregressive, "ar_steps": 8, "ar_guidance": 2.0}
    )
    asked: list[Any] = []
    real = student._forced_at_once

    def spy(net: Any, noisy: Tensor, clean: Tensor, t: Tensor, text: Tensor) -> Tensor:
        asked.append((net, t.clone(), torch.is_grad_enabled()))
        return real(net, noisy, clean, t, text)

    student._forced_at_once = spy  # type: ignore[method-assign]
    loss = student._consistency(CLIPS, SampleNoise(0, 0, [4, 5], "init"), student.embed(PROMPTS))
    loss.backward()
    assert [a[0] for a in asked] == [student.ar_net, student.ar_net, student.ema.net, student.net]
    assert [a[2] for a in asked] == [False, False, False, True]
    assert bool((asked[2][1] < asked[0][1]).all()) and torch.equal(asked[0][1], asked[3][1])
    assert all(p.grad is None for p in student.ar_net.parameters())  # type: ignore[union-attr]
    assert any(p.grad is not None for p in student.net.parameters())


def test_consistency_trains_and_says_what_it_needs(autoregressive: str) -> None:
    student = tiny_student(init={"init": "consistency", "ar_weights": autoregressive, "lr": 1e-3, "warmup": 1})
    fit(student, Batches(CLIPS), LastLoss(), max_steps=1)
    assert student.iteration == 1
    with pytest.raises(ValueError, match="consistency needs them, and it alone"):
        tiny_student(init={"init": "consistency"})
    with pytest.raises(ValueError, match="consistency needs them, and it alone"):
        tiny_student(init={"ar_weights": autoregressive})
    with pytest.raises(ValueError, match="needs a clean past; init is 'ode_noisy'"):
        tiny_student(init={"init": "ode_noisy", "init_state_target": "last"})
