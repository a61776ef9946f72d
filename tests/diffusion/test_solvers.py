"""The ODE solvers: the published scheduler's numbers, and the order of their error where the path is known."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from adastate.diffusion.flow import euler_times
from adastate.diffusion.solvers import euler, unipc, unipc_levels
from tests.support.tiny import normal

NOISE = normal(2, 3, 4, 4, 4).double()
SPREAD = 0.3
"""Standard deviation of Gaussian data, whose probability flow is known."""


def variance(s: Tensor) -> Tensor:
    return ((1 - s) * SPREAD) ** 2 + s**2


def exact_flow(x: Tensor, s: Tensor) -> Tensor:
    """E[eps - x0 | x] at level s."""
    return (s - (1 - s) * SPREAD**2) / variance(s) * x


@pytest.mark.parametrize("shift", [1.0, 3.0, 5.0, 8.0])
@pytest.mark.parametrize("steps", [1, 2, 3, 8, 50])
def test_unipc_takes_the_published_steps(steps: int, shift: float) -> None:
    """diffusers' scheduler on the levels that Wan2.1 gives it."""
    from diffusers import UniPCMultistepScheduler

    levels, times = unipc_levels(steps, shift)
    scheduler = UniPCMultistepScheduler(
        prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=shift, solver_order=2, solver_type="bh2"
    )
    scheduler.set_timesteps(steps)
    scheduler.sigmas, scheduler.timesteps = levels.clone(), times
    mix = normal(4, 4, seed=1)

    def flow(x: Tensor, t: Tensor) -> Tensor:
        return torch.tanh(x @ mix) + t / 1000

    ours = unipc(lambda x, i: flow(x, times[i]), NOISE.float(), levels)
    theirs = NOISE.float()
    for i, t in enumerate(times):
        theirs = scheduler.step(flow(theirs, t), t, theirs).prev_sample
        assert torch.allclose(ours[i + 1], theirs, atol=1e-5), i


def test_wan_s_levels_and_cut_timesteps() -> None:
    levels, times = unipc_levels(50, 5.0)
    assert times[:6].tolist() == [999, 995, 991, 987, 982, 978]
    assert levels.dtype == torch.float32 and times.dtype == torch.int64
    assert levels[0].item() == pytest.approx(4.995 / 4.996, abs=1e-7) and levels[-1] == 0
    assert levels.shape == (51,) and times.shape == (50,)
    assert (levels[:-1] * 1000 - times).min() >= -1e-4 and (levels[:-1] * 1000 - times).max() > 0.5, "cut, not rounded"


def error(path: list[Tensor], levels: Tensor) -> float:
    """Against the exact end: a Gaussian's samples keep their place in it."""
    expected = NOISE * (variance(levels[-1].double()) / variance(levels[0].double())).sqrt()
    return float((path[-1] - expected).abs().max())


def test_unipc_has_a_higher_order_than_euler() -> None:
    errors: dict[str, list[float]] = {"euler": [], "unipc": []}
    for steps in (20, 40):
        s = unipc_levels(steps, 3.0)[0].double()
        errors["unipc"].append(error(unipc(lambda x, i, s=s: exact_flow(x, s[i]), NOISE, s), s))
        s = euler_times(steps, 3.0).double()
        errors["euler"].append(error(euler(lambda x, i, s=s: exact_flow(x, s[i]), NOISE, s), s))
    assert errors["euler"][0] / errors["euler"][1] == pytest.approx(2, rel=0.2)
    assert errors["unipc"][0] > 3.5 * errors["unipc"][1]
    assert errors["unipc"][1] < 0.4 * errors["euler"][1]


@pytest.mark.parametrize("steps", [1, 2, 7])
def test_a_straight_path_is_exact(steps: int) -> None:
    """With one x0 for all samples both solvers end there, and pass through (1 - s) x0 + s eps."""
    x0, s = normal(*NOISE.shape, seed=3).double(), unipc_levels(steps, 5.0)[0].double()
    for solver in (euler, unipc):
        path = solver(lambda x, i: (x - x0) / s[i], NOISE, s)
        assert len(path) == steps + 1
        assert torch.allclose(path[-1], x0, atol=1e-9)
        eps = (NOISE - (1 - s[0]) * x0) / s[0]
        assert torch.allclose(path[steps // 2], (1 - s[steps // 2]) * x0 + s[steps // 2] * eps, atol=1e-9)


def test_impossible_levels() -> None:
    with pytest.raises(ValueError, match="0 steps make no path"):
        unipc_levels(0, 5.0)
    with pytest.raises(ValueError, match=r"UniPC's levels fall from below 1, got 1 to 0: take unipc_levels"):
        unipc(lambda x, i: x, NOISE, torch.tensor([1.0, 0.5, 0.0]))
