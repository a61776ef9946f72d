"""A stream that is carried on from iteration to iteration is one stream, and only its new frames learn."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from torch import Tensor

from adastate.diffusion import losses
from adastate.diffusion.noise import SampleNoise
from adastate.stream import Exits, PromptSwitch, StateCache
from adastate.stream.rollout import rollout
from adastate.training import streaming_rollouts
from adastate.training.prompted_network import PromptedNetwork
from adastate.training.rollout_sampler import LongRollout
from adastate.training.streaming_rollouts import StreamBatch, StreamPool, new_frames
from adastate.training.student import Student
from adastate.training.student_rollouts import MicroBatch, RolloutDraw, StudentSample, rollout_from_start
from callbacks import Checkpoints
from datamodules.prompts import PromptData
from tests.support.rig import (
    Gradients,
    Pictures,
    Prompts,
    Rows,
    distance,
    fit,
    gradients_of,
    tiny_distill,
    tiny_student,
)
from tests.support.tiny import SHAPE

LAST = RolloutDraw(Exits(1))
STREAMING: dict[str, Any] = {"long_rollout": LongRollout(12, "streaming")}
"""A horizon of 6 frames, and 3 more twice."""


def noise(rows: int = 2, purpose: str = "x") -> SampleNoise:
    return SampleNoise(0, 0, range(rows), purpose)


def carried(student: Student, prompt: str = "red ball", **options: Any) -> StreamBatch:
    return StreamBatch(StateCache(student.spec), student.embed([prompt] * 2), **options)


def learning(student: Student, x: Tensor) -> bool:
    """Whether `x` has a gradient with respect to the network."""
    given = torch.autograd.grad(x.square().sum(), [*student.net.parameters()], allow_unused=True, retain_graph=True)
    return any(g is not None and float(g.abs().max()) > 0 for g in given)


@pytest.mark.parametrize(
    "stream", [{}, {"chunk_frames": 1}, {"context_renoise": True}, {"cache_grad": "straight_through"}]
)
def test_a_carried_stream_is_the_stream_that_one_rollout_makes(stream: dict[str, Any]) -> None:
    """Bit for bit, under the same noise: its beginning is an ordinary rollout, and it has no seams."""
    student = tiny_student(**stream)
    part = MicroBatch(student.embed(["red ball"] * 2), torch.arange(2))
    for grad in (True, False):
        first = carried(student).go_on(student, noise(), LAST, grad)
        assert (
            torch.equal(first.x, rollout_from_start(student, part, noise(), LAST, grad).x) and first.loss_mask is None
        )
    one, source, size = carried(student), noise(), student.chunk_frames
    parts = [one.go_on(student, source, LAST, grad=False).x for _ in range(3)]
    frames = 6 + 2 * new_frames(student, 6)
    with torch.no_grad():
        cache = StateCache(student.spec)
        made = list(rollout(PromptedNetwork(student.net, part.text), noise(), cache, frames // size, SHAPE, LAST.exits))
    whole = torch.cat([c.content for c in made], 1)
    assert torch.equal(torch.cat([parts[0]] + [p[:, size:] for p in parts[1:]], 1), whole)
    assert one.frames == frames and [p.shape[1] for p in parts] == [6, 6, 6]


@pytest.mark.parametrize("stream", [{}, {"chunk_frames": 1}, {"cache_grad": "straight_through"}, {"state_grad": 2}])
def test_only_new_frames_learn_and_the_overlap_is_what_was_there(stream: dict[str, Any]) -> None:
    student = tiny_student(**stream)
    one, size = carried(student), student.chunk_frames
    before = one.go_on(student, noise(), LAST, grad=True)
    for purpose in ("a", "b"):
        sample = one.go_on(student, noise(purpose=purpose), LAST, grad=True)
        assert torch.equal(sample.x[:, :size], before.x[:, -size:].detach())
        assert not learning(student, sample.x[:, :size])
        assert all(learning(student, chunk.content) for chunk in sample.chunks)
        assert torch.equal(sample.x[:, size:], torch.cat([c.content for c in sample.chunks], 1))
        assert sample.loss_mask is not None and sample.loss_mask.tolist() == [False] * size + [True] * (6 - size)
        assert sample.context == size
        before = sample


def test_the_loss_is_of_the_new_frames_alone_the_critic_s_too() -> None:
    distill = tiny_distill(horizon_weight=2.0, **STREAMING)
    one = carried(distill.student)
    one.go_on(distill.student, noise(), LAST, grad=False)
    sample = one.go_on(distill.student, noise(), LAST, grad=False)
    x, text = sample.x.requires_grad_(), one.text
    loss, _ = distill.student_loss(replace(sample, x=x), text, distill.student.embed([""]), torch.arange(2))
    loss.backward()
    assert x.grad is not None
    by_frame = x.grad.flatten(2).norm(dim=2).norm(dim=0)
    assert by_frame[:3].tolist() == [0, 0, 0] and bool((by_frame[3:] > 0).all())
    weight = losses.horizon_weight(6, 2.0, loss_mask=sample.loss_mask)
    assert weight[3:].tolist() == pytest.approx([0.5, 1.0, 1.5]), "the law runs over the frames that carry loss"

    predicted: list[Tensor] = []
    distill.critic.net.register_forward_hook(lambda *call: predicted.append(call[2]))
    found, _ = distill.critic.loss(sample.x, text, noise(), sample.loss_mask)
    source = noise()
    source.integers(1000)
    error = predicted[0] - (source.normal(*x.shape[1:]) - x.detach())
    assert float(found) == pytest.approx(float(error[:, 3:].square().mean()), rel=1e-5)


def test_the_first_latent_of_a_window_becomes_a_picture() -> None:
    student = tiny_student()
    student.codec = Pictures()
    one = carried(student)
    first = one.go_on(student, noise(), LAST, grad=False)
    second = one.go_on(student, noise(purpose="a"), LAST, grad=True)
    assert float(first.x[:, 0].min()) != 7.0, "at its beginning it is one already"
    assert float(second.x[:, 0].min()) == float(second.x[:, 0].max()) == 7.0
    assert torch.equal(second.x[:, 1:3], first.x[:, -2:])
    assert one.tail is not None and torch.equal(one.tail[:, :3], first.x[:, -3:]), "the stream itself stays as it was"


@pytest.mark.parametrize("kind", ["keep", "recache", "flush", "cut"])
def test_a_switch_is_that_of_a_stream(kind: str) -> None:
    """As `generate` makes it, bit for bit; and from there on the scores are told the new prompt."""
    student = tiny_student(switch={"kind": kind, "frames": None if kind == "recache" else 1})
    one, source = carried(student, next_text=student.embed(["slow snow"] * 2), switch_frame=6), noise()
    with torch.no_grad():
        samples = [one.go_on(student, source, LAST, grad=False) for _ in range(3)]
    stream = student.stream(["red ball"] * 2, 12, switches={2: PromptSwitch(["slow snow"] * 2)}, noise=noise())
    expected = torch.cat([c.content for c in stream], 1)
    found = torch.cat([samples[0].x, *(s.x[:, 3:] for s in samples[1:])], 1)
    assert torch.allclose(found, expected, atol=1e-6)
    old, new = student.embed(["red ball"] * 2), student.embed(["slow snow"] * 2)
    assert [torch.equal(s.text, old if i == 0 else new) for i, s in enumerate(samples) if s.text is not None] == [
        True
    ] * 3


# ---- all streams of an iteration


def part(student: Student, rows: range, slot: int, prompt: str = "red ball") -> MicroBatch:
    return MicroBatch(student.embed([prompt] * len(rows)), torch.tensor(rows), slot=slot)


def made(streams: StreamPool, parts: list[MicroBatch], iteration: int) -> list[StudentSample]:
    streams.begin(parts)
    return [streams.next_sample(p, SampleNoise(0, iteration, p.index, "x"), LAST, grad=False) for p in parts]


def test_a_stream_ends_at_its_longest_and_the_next_has_the_prompt_of_its_batch() -> None:
    student = tiny_student()
    streams = StreamPool(student, longest=12)
    frames, prompts = [], []
    for i, prompt in enumerate(["red", "fast", "snow", "lava"]):
        (sample,) = made(streams, [part(student, range(2), 0, prompt)], i)
        frames.append(streams.frames)
        prompts.append([w for w in ("red", "fast", "snow", "lava") if torch.equal(sample.text, student.embed([w] * 2))])
    assert frames == [6, 9, 12, 6]
    assert prompts == [["red"], ["red"], ["red"], ["lava"]]
    assert list(streams.switch_chunks()) == [2, 3]


def test_a_checkpoint_s_streams_go_on_in_micro_batches_of_another_size() -> None:
    """Two of two rows are saved, and one of four goes on: the same frames, in the same order."""
    student = tiny_student()
    halves, whole = StreamPool(student, 12), StreamPool(student, 12)
    pair = [part(student, range(2), 0), part(student, range(2, 4), 1)]
    made(halves, pair, 0)
    whole.load_state_dict(halves.state_dict())
    assert whole.state_dict() is not None, "a checkpoint before the next iteration holds them too"
    expected = torch.cat([s.x for s in made(halves, pair, 1)])
    (found,) = made(whole, [part(student, range(4), 0)], 1)
    assert torch.allclose(found.x, expected, atol=1e-6)
    assert torch.equal(found.x[:, :3], expected[:, :3])
    with pytest.raises(ValueError, match="the checkpoint carries 4 streams on, and this run has at least 5"):
        other = StreamPool(student, 12)
        other.load_state_dict(halves.state_dict())
        made(other, [part(student, range(5), 0)], 1)


def test_a_checkpoint_s_streams_go_on_where_their_samples_are(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows lie in the order of sample numbers: micro batch by micro batch, and within one rank by rank."""
    student = tiny_student()
    whole = StreamPool(student, 12)
    made(whole, [part(student, range(8), 0)], 0)
    state = whole.state_dict()
    state["text"] = torch.arange(8.0)[:, None, None].expand_as(state["text"]).clone()
    monkeypatch.setattr(streaming_rollouts, "_several", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 2)
    for rank in (0, 1):
        monkeypatch.setattr(torch.distributed, "get_rank", lambda rank=rank: rank)
        mine = [range(4 * slot + 2 * rank, 4 * slot + 2 * rank + 2) for slot in (0, 1)]
        streams = StreamPool(student, 12)
        streams.load_state_dict(state)
        streams.begin([part(student, rows, slot) for slot, rows in enumerate(mine)])
        assert [carried.text[:, 0, 0].tolist() for carried in streams._now] == [list(rows) for rows in mine]
        assert all(torch.equal(s.tail, state["tail"][list(rows)]) for s, rows in zip(streams._now, mine, strict=True))


def test_going_back_is_as_if_nothing_had_been_made() -> None:
    student = tiny_student()
    streams, parts = StreamPool(student, 12), [part(student, range(2), 0)]
    made(streams, parts, 0)
    (bad,) = made(streams, parts, 1)
    streams.back()
    (again,) = made(streams, parts, 1)
    assert torch.equal(bad.x, again.x) and streams.frames == 9
    streams.back(restart=True)
    made(streams, parts, 2)
    assert streams.frames == 6


# ---- in training


class Pairs(Prompts):
    """Prompts with those to which they switch."""

    def train_dataloader(self) -> Any:
        rows = Rows(self.batch, 1, 0, False)
        every = [replace(b, next_prompts=[p[::-1] for p in b.prompts]) for _, b in zip(range(64), rows, strict=False)]
        return torch.utils.data.DataLoader(every, batch_size=None)


@pytest.mark.parametrize(
    "stream", [{}, {"cache_grad": "straight_through"}, {"state_grad": 1}, {"anchor": "static"}], ids=str
)
def test_iterations_follow_each_other_without_a_graph_between_them(stream: dict[str, Any]) -> None:
    distill, seen = tiny_distill(stream, iterations=4, student_every=1, **STREAMING), Gradients()
    fit(distill, Prompts(), seen)
    assert distill.iteration == 4 and len(seen.steps) == 8
    for gradient, _ in seen.steps:
        assert all(torch.isfinite(g).all() for g in gradient.values())


def test_streams_of_micro_batches_are_those_of_one_large_batch() -> None:
    """At every step of three iterations, in the second and third of which the streams go on and switch."""

    def steps(batch: int) -> list[dict[str, Tensor]]:
        seen = Gradients()
        small = {"student_lr": 2e-6, "critic_lr": 2e-6, "iterations": 3, "student_every": 1}
        fit(tiny_distill(critic_new_rollout=False, prompt_switch_prob=1.0, **small, **STREAMING), Pairs(batch), seen)
        return [gradient for gradient, _ in seen.steps]

    for a, b in zip(steps(2), steps(4), strict=True):
        assert distance(a, b) < 1e-4


def test_replay_gives_equal_gradients_in_a_carried_stream_and_in_a_window() -> None:
    for options in ({**STREAMING, "state_loss": "dmd"}, {"long_rollout": LongRollout(12)}):
        plain, replayed = (gradients_of(3, replay=replay, **options) for replay in (False, True))
        for a, b in zip(plain, replayed, strict=True):
            assert distance(b, a) < 1e-4


def test_prompts_to_switch_to_must_come_with_the_data() -> None:
    with pytest.raises(
        ValueError, match="prompt_switch_prob needs the prompt that comes next: give PromptData pairs: true"
    ):
        fit(tiny_distill(prompt_switch_prob=0.5, **STREAMING), Prompts())


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"prompt_switch_prob": 0.5}, "set long_rollout.frames, their length"),
        (
            {"long_rollout": LongRollout(8, "streaming")},
            "frames 8 is below 9, the horizon and what a stream goes on by",
        ),
        ({"long_rollout": LongRollout(3)}, "frames 3 is below 6, the horizon: make it longer"),
        ({"prompt_switch_prob": 1.5, "long_rollout": LongRollout(12)}, "prompt_switch_prob is 1.5; it is a share"),
        ({"source": "noised", "long_rollout": LongRollout(12)}, "own rollouts; source is 'noised'"),
    ],
)
def test_what_long_tuning_needs(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        tiny_distill(**options)


@pytest.mark.parametrize("since", [1, *(pytest.param(n, marks=pytest.mark.slow) for n in (2, 3))])
def test_a_resumed_run_carries_its_streams_on_bit_for_bit(tmp_path: Path, since: int) -> None:
    """From a checkpoint in the middle of a stream, before and after its switch, and at its end."""

    def run(start: Path | None) -> Any:
        distill = tiny_distill(
            iterations=5, student_every=2, prompt_switch_prob=1.0, critic_new_rollout=False, **STREAMING
        )
        options: dict[str, Any] = {
            "accelerator": "cpu",
            "max_epochs": -1,
            "logger": False,
            "enable_progress_bar": False,
        }
        keep = Checkpoints(str(tmp_path / "checkpoints"), every=1, keep=9)
        trainer = pl.Trainer(enable_model_summary=False, default_root_dir=tmp_path, callbacks=[keep], **options)
        again = {"ckpt_path": start, "weights_only": True} if start else {}
        trainer.fit(distill, datamodule=PromptData(batch=2, pairs=True), **again)
        return distill

    straight = run(None)
    resumed = run(tmp_path / f"checkpoints/{since:08d}/state.ckpt")
    assert resumed.iteration == straight.iteration == 5
    expected, found = straight.state_dict(), resumed.state_dict()
    assert [k for k, v in expected.items() if isinstance(v, Tensor) and not torch.equal(v, found[k])] == []
    straight.save_streams = False
    straight.on_save_checkpoint(without := {"state_dict": {}})
    assert "streams" not in without
    a, b = (d.sampler.streams.state_dict() for d in (straight, resumed))
    assert a["frames"] == b["frames"] and torch.equal(a["tail"], b["tail"])
    assert all(
        torch.equal(x, y) for x, y in zip(a["cache"]["window"]["keys"], b["cache"]["window"]["keys"], strict=True)
    )
