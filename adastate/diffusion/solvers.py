"""Solvers of the probability-flow ODE, from noise at level 1 to data at level 0.

A solver calls `predict(x, i)` for the velocity eps - x0 at step i and returns the sample of every level. The caller
chooses the timestep that the network gets at step i, so recorded velocities can be replayed as well.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise

import torch
from jaxtyping import Float, Float32, Int64
from torch import Tensor

from adastate.diffusion.flow import TIMESTEPS, warp

Predict = Callable[[Float[Tensor, "B ..."], int], Float[Tensor, "B ..."]]
"""(sample, step) -> velocity."""

FIRST_LEVEL = torch.tensor(0.999).item()
"""First level before the shift. At level 1 the log signal-to-noise ratio, in which UniPC steps, would be infinite."""


def euler(
    predict: Predict, x: Float[Tensor, " B *rest"], levels: Float[Tensor, " levels"]
) -> list[Float[Tensor, " B *rest"]]:
    """x' = x + (s' - s) v along `levels`, one more than steps; the samples at all levels, noise `x` first."""
    path = [x]
    for i, (now, then) in enumerate(pairwise(levels.tolist())):
        path.append(path[-1] + (then - now) * predict(path[-1], i))
    return path


def unipc_levels(steps: int, shift: float) -> tuple[Float32[Tensor, " {steps+1}"], Int64[Tensor, " {steps}"]]:
    """(levels ending at 0, timesteps) as Wan2.1's UniPC takes them.

    The network receives 1000 s truncated to an integer, while the updates use s itself. Levels are rounded to float32,
    which near 1 moves the noise ratio by 1e-4: parity needs it.
    """
    if steps < 1:
        raise ValueError(f"{steps} steps make no path; give at least 1")
    levels = warp(torch.linspace(FIRST_LEVEL, 0, steps + 1, dtype=torch.float64), shift)
    return levels.float(), (levels[:-1] * TIMESTEPS).long()


def unipc(
    predict: Predict, x: Float[Tensor, " B *rest"], levels: Float[Tensor, " levels"]
) -> list[Float[Tensor, " B *rest"]]:
    """UniPC of order 2 with B(h) = e^h - 1 ("bh2") on predictions of x0 (Zhao et al. 2023, section 3).

    Every step first corrects its own sample with the velocity there, then predicts the next one. The first step and
    the last are of order 1; the correction costs no pass.

    Args:
        predict: the velocity at a step.
        x: noise.
        levels: one more than steps, falling, the first below 1, the last 0 (`unipc_levels`).

    Returns:
        The predicted samples of all levels, noise first: the inputs of `predict`, and the result.
    """
    s = levels.double().tolist()
    if s[0] >= 1 or any(a <= b for a, b in pairwise(s)):
        raise ValueError(f"UniPC's levels fall from below 1, got {s[0]:g} to {s[-1]:g}: take unipc_levels")
    path, x0s = [x], list[Tensor]()
    start, order = x, 1  # the corrected sample and the order of the step before
    for i in range(len(s) - 1):
        x0 = path[-1] - s[i] * predict(path[-1], i)
        start = _correct(start, x0s, x0, s[: i + 1], order) if i else x
        x0s = [*x0s[-1:], x0]
        order = min(2, i + 1, len(s) - 1 - i)
        path.append(_predict(start, x0s, s[: i + 2], order))
    return path


def _snr(s: float) -> float:
    """lambda = log((1 - s) / s), infinite at s = 0."""
    return math.log((1 - s) / s) if s > 0 else math.inf


def _first_order(x: Tensor, x0: Tensor, s: list[float]) -> tuple[Tensor, float]:
    """The exact step from s[-2] to s[-1] for a constant x0, and (1 - s) (e^-h - 1)."""
    b = (1 - s[-1]) * math.expm1(_snr(s[-2]) - _snr(s[-1]))
    return s[-1] / s[-2] * x - b * x0, b


def _slope(x0s: list[Tensor], s: list[float]) -> tuple[Tensor, float]:
    """(D1, r1): the change of x0 over the step before, per r1 = (lambda_before - lambda) / h < 0."""
    r = (_snr(s[-3]) - _snr(s[-2])) / (_snr(s[-1]) - _snr(s[-2]))
    return (x0s[-2] - x0s[-1]) / r, r


def _predict(x: Tensor, x0s: list[Tensor], s: list[float], order: int) -> Tensor:
    """UniP: from level s[-2] to s[-1] with the x0 found at s[-2] and, for order 2, at s[-3]."""
    y, b = _first_order(x, x0s[-1], s)
    return y if order == 1 else y - b * 0.5 * _slope(x0s, s)[0]


def _correct(x: Tensor, x0s: list[Tensor], x0: Tensor, s: list[float], order: int) -> Tensor:
    """UniC: the same step once more, now with the `x0` found at its end s[-1]."""
    y, b = _first_order(x, x0s[-1], s)
    change = x0 - x0s[-1]
    if order == 1:
        return y - b * 0.5 * change
    h = _snr(s[-1]) - _snr(s[-2])
    e = math.expm1(-h)
    g1 = -e / h - 1
    b1, b2 = g1 / e, 2 * (-g1 / h - 0.5) / e
    slope, r = _slope(x0s, s)
    rho = (b1 - b2) / (1 - r)  # rho + rho_end = b1 and r rho + rho_end = b2
    return y - b * (rho * slope + (b1 - rho) * change)
