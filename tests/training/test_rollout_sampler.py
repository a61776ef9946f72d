"""What is drawn for a rollout, once for all ranks, and Rolling-Forcing's clips, whose schedule and length are drawn."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from adastate.stream import Exits, StateCache
from adastate.stream.rollout import rollout
from adastate.training import rollout_sampler
from adastate.training.distill import Distill
from adastate.training.prompted_network import PromptedNetwork
from adastate.training.rollout_sampler import LongRollout
from adastate.training.student_rollouts import MicroBatch, RolloutDraw, rollout_window
from tests.support.rig import Pictures, Prompts, fit, tiny_distill
from tests.support.tiny import SHAPE, STAIRS

LEVELS = 2


def drawn(distill: Distill, iterations: int) -> list[RolloutDraw]:
    return [distill.sampler.draw(i, "s") for i in range(iterations)]


def part_of(distill: Distill) -> MicroBatch:
    return MicroBatch(distill.student.embed(["red ball"] * 2), torch.arange(2))


# ---- draws


def test_the_first_chunk_s_exit_is_drawn_over_its_own_list_and_independently() -> None:
    """With two steps and four for the first chunk all eight pairs come about, equally often."""
    distill = tiny_distill({"first_chunk_denoising_steps": (1000, 750, 500, 250)})
    pairs = [(draw.exits.level, draw.exits.first_level) for draw in drawn(distill, 400)]
    for level in range(LEVELS):
        for first in range(4):
            assert pairs.count((level, first)) == pytest.approx(50, abs=25)
    assert {draw.exits.first_level for draw in drawn(tiny_distill(), 4)} == {None}


def test_the_first_levels_of_the_first_chunk_learn() -> None:
    """The network sees each of them with a gradient in some iteration."""
    own = (1000, 750, 500, 250)
    distill = tiny_distill({"first_chunk_denoising_steps": own})
    seen: set[float] = set()

    def note(module: Any, args: Any, out: Any) -> None:
        if out.requires_grad and not seen_chunk:
            seen.add(round(float(args[1][0, 0]), 1))
            seen_chunk.append(True)

    distill.student.net.register_forward_hook(note)
    for iteration in range(12):
        seen_chunk: list[bool] = []
        distill._iteration = iteration
        distill.student_sample(part_of(distill), "student", grad=True)
    assert seen == {round(t, 1) for t in distill.student.spec.levels(0)}


@pytest.mark.parametrize("k", [0, 1, 3])
def test_the_cut_of_the_state_s_graph_is_drawn(k: int) -> None:
    phases = [draw.exits.state_phase for draw in drawn(tiny_distill({"state_grad": k}), 60)]
    assert set(phases) == set(range(k + 1))


def test_a_resumed_run_draws_the_same() -> None:
    """Draws are a function of (seed, iteration, purpose) and of nothing that a run has done before."""
    options: dict[str, Any] = {"uniform_schedule_prob": 0.5, "long_rollout": LongRollout(12)}
    one, other = (tiny_distill(STAIRS, **options) for _ in range(2))
    whole = drawn(one, 20)
    assert [other.sampler.draw(i, "s") for i in reversed(range(20))] == whole[::-1]
    assert drawn(tiny_distill(STAIRS, seed=1, **options), 20) != whole
    assert [one.sampler.draw(i, "t") for i in range(20)] != whole


@pytest.mark.parametrize("stream", [STAIRS, {"first_chunk_denoising_steps": (1000, 750)}, {"state_grad": 2}], ids=str)
def test_the_ranks_agree_on_all_that_is_drawn(stream: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Draws that differ differ in what the ranks compare, or one would wait for the other for ever."""
    compared: list[dict[str, int]] = []
    monkeypatch.setattr(rollout_sampler, "agree", lambda drawn, device: compared.append(dict(drawn)))
    options = {"uniform_schedule_prob": 0.5} if stream is STAIRS else {}
    draws = drawn(tiny_distill(stream, long_rollout=LongRollout(12), **options), 60)
    told = [tuple(v for name, v in sorted(each.items()) if name != "iteration") for each in compared]
    assert len(set(told)) == len(set(draws)) == len(set(zip(told, draws, strict=True))) > 4


# ---- staircases


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_staircases_and_plain_rollouts_are_mixed(share: float) -> None:
    distill = tiny_distill(STAIRS, uniform_schedule_prob=share, student_every=1, iterations=2)
    draws = drawn(distill, 60)
    assert sum(draw.uniform_schedule for draw in draws) / 60 == pytest.approx(share, abs=0.2)
    for uniform, name in ((True, "level"), (False, "window_phase")):
        found = {getattr(draw.exits, name) for draw in draws if draw.uniform_schedule == uniform}
        assert found in (set(range(LEVELS)), set()), "the other of the two is not drawn"
        assert {getattr(draw.exits, name) for draw in draws if draw.uniform_schedule != uniform} <= {None}
    fit(distill, Prompts())
    assert distill.iteration == 2
    with pytest.raises(ValueError, match=r"uniform_schedule_prob 0\.5 is a share of staircases; schedule is 'uniform'"):
        tiny_distill(uniform_schedule_prob=0.5)


def test_every_chunk_of_a_staircase_has_its_gradient() -> None:
    distill = tiny_distill(STAIRS)
    for iteration in range(4):
        distill._iteration = iteration
        sample = distill.student_sample(part_of(distill), "s", grad=True)
        for chunk in sample.chunks:
            distill.zero_grad()
            chunk.content.square().sum().backward(retain_graph=True)
            assert any(p.grad is not None and float(p.grad.abs().max()) > 0 for p in distill.student.net.parameters())


def test_the_length_is_drawn_and_its_end_is_scored() -> None:
    """Lengths of 6, 9 and 12, equally often; a staircase knows which frames are before the scored ones."""
    distill = tiny_distill(STAIRS, uniform_schedule_prob=0.5, long_rollout=LongRollout(12))
    draws = drawn(distill, 300)
    for start in range(3):
        assert sum(draw.window_start == start for draw in draws) == pytest.approx(100, abs=35)
    assert all(draw.exits.quiet_frames == (0 if draw.uniform_schedule else 3 * draw.window_start) for draw in draws)


@pytest.mark.parametrize("codec", ["pictures", "latents"])
@pytest.mark.parametrize("phase", range(LEVELS))
@pytest.mark.parametrize("start", [0, 1, 2])
def test_the_scored_end_of_a_staircase(start: int, phase: int, codec: str) -> None:
    """It is the end of the stream. Of a longer one the first latent is a picture again, and its chunk has no loss."""
    distill = tiny_distill(STAIRS)
    seen: list[Tensor] = []
    if codec == "pictures":
        distill.student.codec = Pictures()
        inner = distill.student.codec.decode
        distill.student.codec.decode = lambda latents: (seen.append(latents), inner(latents))[1]  # type: ignore
    draw = RolloutDraw(Exits(window_phase=phase, quiet_frames=3 * start), window_start=start)
    part = part_of(distill)
    sample = rollout_window(distill.student, part, distill.noise(part.index, "x"), draw, grad=True)
    network = PromptedNetwork(distill.student.net, part.text)
    cache, noise = StateCache(distill.student.spec), distill.noise(part.index, "x")
    with torch.no_grad():
        stream = list(rollout(network, noise, cache, start + 2, SHAPE, draw.exits, finish=False))
    whole = torch.cat([c.content for c in stream], 1)
    pictured = start > 0 and codec == "pictures"
    expected = whole[:, -6:].clone()
    if pictured:
        expected[:, 0] = 7.0
        before = whole[:, :-5][:, -4:]  # up to the first scored one, of the horizon that ends with its chunk
        assert torch.allclose(seen[0], before, atol=1e-5)
        assert sample.loss_mask is not None and sample.loss_mask.tolist() == [False] * 3 + [True] * 3
    else:
        assert sample.loss_mask is None and not seen
    assert torch.allclose(sample.x, expected, atol=1e-5) and sample.first == 3 * start
    assert [c.index for c in sample.chunks] == list(range(start + pictured, start + 2))
    assert all(c.content.requires_grad and bool(c.content.any()) for c in sample.chunks), "none of the scored is quiet"


def test_rolling_forcing_s_clips_train() -> None:
    options: dict[str, Any] = {"uniform_schedule_prob": 0.5, "long_rollout": LongRollout(12)}
    for cache_grad in ("detached", "straight_through"):
        distill = tiny_distill({**STAIRS, "cache_grad": cache_grad}, student_every=1, iterations=4, **options)
        fit(distill, Prompts())
        assert distill.iteration == 4


@pytest.mark.parametrize(
    "options",
    [{"long_rollout": LongRollout(12, "streaming")}, {"long_rollout": LongRollout(12), "prompt_switch_prob": 0.5}],
)
def test_a_staircase_is_neither_carried_on_nor_switched(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="a staircase has several chunks in a pass"):
        tiny_distill(STAIRS, **options)
