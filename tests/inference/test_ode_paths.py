"""Paths of teachers: the levels that they pass, and the causal ones chunk by chunk."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from adastate.diffusion import flow
from adastate.diffusion.solvers import unipc_levels
from adastate.encoders import TinyText
from adastate.inference.ode_paths import forced_paths, path_spec, streamed_paths, whole_paths
from adastate.stream import StreamSpec
from adastate.training.teacher import Teacher
from tests.support.tiny import GRID, SHAPE, SIZE, normal, randomise, spec

PROMPTS, NEGATIVE = ["red ball", "slow snow"], "blue rain"
NOISE = normal(2, 6, *SHAPE, seed=5)


FLOWN = (normal(2, 6, 3, seed=7) > 0).float()


def teacher(guidance: float = 2.0, actions: int = 0) -> Teacher:
    torch.manual_seed(0)
    size, text = replace(SIZE, actions=actions), TinyText(SIZE.text_tokens, SIZE.text_width)
    frames = {"latent_size": GRID, "rollout_frames": 6}
    made = Teacher(size, text=text, **frames, guidance=guidance, negative_prompt=NEGATIVE, average=None)  # type: ignore[arg-type]
    randomise(made.net, 3)
    return made.eval()


@pytest.mark.parametrize("solver", ["euler", "unipc"])
def test_a_route_passes_the_student_s_levels_and_those_asked_for(solver: str) -> None:
    way = path_spec(StreamSpec(), 48, solver, levels=[900, 250.0])  # type: ignore[arg-type]
    raw = [1000, 900, 750, 500, 250]
    expected = [float(flow.warp(torch.tensor(r / 1000), 5.0)) * 1000 for r in raw]
    assert way.told == pytest.approx([*expected, 0.0], abs=1e-3)
    assert way.told[0] == 1000.0, "pure noise, also where the solver begins just below"
    assert len(way.levels) == 49 and way.levels[-1] == 0 and bool((way.levels.diff() < 0).all())
    assert float(way.levels[0]) == pytest.approx(
        1.0 if solver == "euler" else float(unipc_levels(1, 5.0)[0][0]), abs=1e-7
    )
    assert float(way.levels[0]) < 1 or solver == "euler"
    assert [float(way.levels[i]) * 1000 for i in way.at[1:]] == pytest.approx(way.told[1:])


def test_a_route_may_be_kept_whole() -> None:
    way = path_spec(StreamSpec(), 9, every=True)
    assert way.at == [*range(10)] and len(way.told) == 10


def test_steps_are_shared_out_over_the_gaps() -> None:
    steps = path_spec(StreamSpec(denoising_steps=(1000, 900), timestep_shift=1.0), 10).levels.diff().neg()
    assert steps[0] == pytest.approx(0.1) and torch.allclose(steps[1:], torch.full((9,), 0.1), atol=1e-6)


def test_levels_that_are_not_shifted_are_passed_too() -> None:
    """CausVid names its levels after the shift."""
    told = path_spec(
        StreamSpec(denoising_steps=(1000, 757, 522), steps_are_unshifted=False, timestep_shift=8.0), 12
    ).told
    assert told == pytest.approx([1000.0, 757.0, 522.0, 0.0], abs=1e-3)


def test_a_path_begins_with_noise_even_if_the_student_does_not() -> None:
    assert path_spec(StreamSpec(denoising_steps=(900, 500), timestep_shift=1.0), 8).told == pytest.approx(
        [1000.0, 900.0, 500.0, 0.0], abs=1e-3
    )


def test_impossible_routes() -> None:
    with pytest.raises(ValueError, match="3 steps cannot pass the 4 levels"):
        path_spec(StreamSpec(), 3)
    with pytest.raises(ValueError, match=r"a level lies above 0 and up to 1000, before the shift; got \[0\]"):
        path_spec(StreamSpec(), 8, levels=[0])


def test_solvers_agree_in_the_limit_and_guidance_counts() -> None:
    """Both solve one equation; with few steps they do not agree, and another guidance is another equation."""
    one = teacher()

    def end(solver: str, steps: int) -> torch.Tensor:
        return whole_paths(one, path_spec(spec(), steps, solver), PROMPTS, NOISE)[:, -1]  # type: ignore[arg-type]

    fine = end("euler", 100)
    assert (end("unipc", 30) - fine).abs().mean() < 0.3 * (end("euler", 5) - fine).abs().mean()
    one.guidance = 0.0
    assert not torch.allclose(end("euler", 100), fine, atol=1e-2)


@pytest.mark.parametrize("solver", ["euler", "unipc"])
@pytest.mark.parametrize("guidance", [0.0, 2.0])
@pytest.mark.parametrize("stream", [{}, {"past_frames": 2}, {"past_frames": None, "warmup": "growing"}])
@pytest.mark.parametrize("flown", [None, FLOWN])
def test_a_streamed_path_is_a_forced_one_after_its_own_ends(
    stream: dict[str, Any], guidance: float, solver: Any, flown: Tensor | None
) -> None:
    """Law 1 along a whole path: through the cache, and all chunks at once behind a mask."""
    one, told = teacher(guidance, 0 if flown is None else 3), spec(**stream)
    way = path_spec(told, 4, solver)
    streamed = streamed_paths(one, told, way, PROMPTS, NOISE, flown)
    assert streamed.shape == (2, len(way.at), *NOISE.shape[1:])
    assert torch.equal(streamed[:, 0], NOISE)
    forced = forced_paths(one, told, way, PROMPTS, NOISE, streamed[:, -1], flown)
    assert torch.allclose(streamed, forced, atol=2e-4)
    other = forced_paths(one, told, way, PROMPTS, NOISE, normal(*NOISE.shape, seed=6), flown)
    assert torch.allclose(other[:, :, :3], forced[:, :, :3], atol=1e-4), "the first chunk has no past"
    assert not torch.allclose(other[:, -1, 3:], forced[:, -1, 3:], atol=1e-2), "the second has"


def test_guidance_is_c_plus_w_c_minus_u() -> None:
    """After the one step of a path, in which all begin with the same noise."""
    one, told = teacher(), spec()
    way = path_spec(told, 2)
    for paths in (
        lambda p: whole_paths(one, way, p, NOISE),
        lambda p: whole_paths(one, path_spec(told, 2, "unipc"), p, NOISE),
        lambda p: streamed_paths(one, told, way, p, NOISE)[:, :, :3],
        lambda p: forced_paths(one, told, way, p, NOISE, past=NOISE),
    ):
        one.guidance = 0.0
        c, u = paths(PROMPTS)[:, 1], paths([NEGATIVE] * 2)[:, 1]
        one.guidance = 2.0
        assert torch.allclose(paths(PROMPTS)[:, 1], c + 2 * (c - u), atol=2e-5)
        assert (c - u).abs().max() > 1e-3


def test_actions_steer_c_alone() -> None:
    """After the one step of a path: c is that of the steered network, u that of nothing given."""
    one, told = teacher(actions=3), spec()
    ways = [path_spec(told, 2, solver) for solver in ("euler", "unipc")]  # type: ignore[arg-type]
    for paths in (
        *(lambda p, a, way=way: whole_paths(one, way, p, NOISE, a) for way in ways),
        lambda p, a: streamed_paths(one, told, ways[0], p, NOISE, a)[:, :, :3],
        lambda p, a: forced_paths(one, told, ways[0], p, NOISE, NOISE, a),
    ):
        one.guidance = 0.0
        c, u = paths(PROMPTS, FLOWN)[:, 1], paths([NEGATIVE] * 2, None)[:, 1]
        plain = paths(PROMPTS, None)[:, 1]
        one.guidance = 2.0
        assert torch.allclose(paths(PROMPTS, FLOWN)[:, 1], c + 2 * (c - u), atol=2e-5)
        assert (c - plain).abs().max() > 1e-3


def test_a_row_is_its_own_whatever_its_batch() -> None:
    one, told = teacher(), spec()
    way = path_spec(told, 4)
    for paths in (
        lambda p, n: whole_paths(one, way, p, n),
        lambda p, n: streamed_paths(one, told, way, p, n),
        lambda p, n: forced_paths(one, told, way, p, n, past=NOISE[: len(n)]),
    ):
        assert torch.allclose(paths(PROMPTS, NOISE)[:1], paths(PROMPTS[:1], NOISE[:1]), atol=1e-4)
