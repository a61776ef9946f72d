"""Flow matching: the noise table, and the arithmetic between sample, noise, velocity and x0.

    x_t = (1 - s) x0 + s eps          the network predicts the velocity  v = eps - x0

Timesteps `t` run from 0 to 1000, and `s` = sigma(t) is the nearest entry of a table of 1000 entries. Hence t = 0 means
sigma(0) = 0.00498 at shift 5, not 0.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache

import torch
from jaxtyping import Float, Float32, Int
from torch import Tensor

from adastate.diffusion.step_list import TIMESTEPS, check_steps
from adastate.types import host_level


def warp(u: Float[Tensor, "*shape"], shift: float) -> Float[Tensor, "*shape"]:
    """Shifts uniform levels `u` in [0, 1] towards noise: shift u / (1 + (shift - 1) u)."""
    return shift * u / (1 + (shift - 1) * u)


@lru_cache(maxsize=16)
@torch.inference_mode(False)
def sigma_table(shift: float, entries: int = TIMESTEPS) -> Float32[Tensor, " {entries}"]:
    """Decreasing levels in (0, 1], starting at 1. Read-only, because it is shared."""
    return warp(torch.linspace(1.0, 0.0, entries + 1)[:-1], shift)


@lru_cache(maxsize=16)
@torch.inference_mode(False)
def sigmas_on(shift: float, device: torch.device) -> Float32[Tensor, " entries"]:
    """`sigma_table` on a device, copied there once."""
    return sigma_table(shift).to(device)


@lru_cache(maxsize=16)
@torch.inference_mode(False)
def _ascending(shift: float, device: torch.device) -> tuple[Tensor, Tensor]:
    sigmas = sigma_table(shift).to(device).flip(0)
    return sigmas, (sigmas * TIMESTEPS).contiguous()


def sigma(t: Float[Tensor, "*shape"], shift: float) -> Float32[Tensor, "*shape"]:
    """Levels of the table entries nearest to timesteps `t`; the noisier one on ties."""
    sigmas, times = _ascending(float(shift), t.device)
    return sigmas[_nearest(times, t)]


def entry(t: Float[Tensor, "*shape"], shift: float) -> Int[Tensor, "*shape"]:
    """Indices of those entries in `sigma_table`; 0 is the noisiest."""
    return TIMESTEPS - 1 - _nearest(_ascending(float(shift), t.device)[1], t)


def _nearest(times: Tensor, t: Tensor) -> Tensor:
    right = torch.searchsorted(times, t.contiguous().to(times.dtype)).clamp(1, len(times) - 1)
    nearer_right = (times[right] - t).abs() <= (t - times[right - 1]).abs()
    return torch.where(nearer_right, right, right - 1)


def warp_steps(raw: Sequence[float], shift: float) -> tuple[float, ...]:
    """Timesteps of a step list that is given before the shift, such as 1000/750/500/250.

    Entry r stands for table entry 1000 - r, so the list must lie in 1..1000 and fall.
    """
    check_steps(raw)
    times = sigma_table(float(shift)) * TIMESTEPS
    return tuple(float(times[TIMESTEPS - int(r)]) for r in raw)


@lru_cache(maxsize=4096)
def _host_sigma(t: float, shift: float) -> float:
    return float(sigma(torch.tensor([t]), shift))


def _level(t: Tensor, shift: float, like: Tensor) -> Tensor | float:
    """Sigma of `t` ([B] or [B, F]) in float64, to broadcast over `like` [B, F, C, H, W]; a number if it is one."""
    level = host_level(t)
    if level is not None:
        return _host_sigma(level, float(shift))
    s = sigma(t, shift).double()
    return s.reshape(s.shape + (1,) * (like.dim() - s.dim()))


def add_noise(
    x0: Float[Tensor, "B F C H W"],
    noise: Float[Tensor, "B F C H W"],
    t: Float[Tensor, " B"] | Float[Tensor, "B F"],
    shift: float,
) -> Float[Tensor, "B F C H W"]:
    """x_t at `t`, of every sample or of every frame."""
    s = torch.as_tensor(_level(t, shift, x0), dtype=torch.float64).to(x0.dtype)
    if s.dim() == 0:  # on the host, and by the same rounding
        return float(1 - s) * x0 + float(s) * noise
    return (1 - s) * x0 + s * noise


def predicted(
    net: Callable[..., Float[Tensor, "B F C H W"]],
    x0: Float[Tensor, "B F C H W"],
    noise: Float[Tensor, "B F C H W"],
    t: Float[Tensor, " B"],
    text: Float[Tensor, "B L D"],
    shift: float,
    actions: Float[Tensor, "B F A1"] | None = None,
) -> Float[Tensor, "B F C H W"]:
    """Velocity that `net` predicts for `x0` with `noise` at `t`, for training and scoring."""
    return net(add_noise(x0, noise, t, shift), t, text, actions=actions)


def to_x0(
    x_t: Float[Tensor, "B F C H W"],
    velocity: Float[Tensor, "B F C H W"],
    t: Float[Tensor, " B"] | Float[Tensor, "B F"],
    shift: float,
) -> Float[Tensor, "B F C H W"]:
    """x0 = x_t - s v, computed in float64 (few-step sampling multiplies the rounding)."""
    return (x_t.double() - _level(t, shift, x_t) * velocity.double()).to(x_t.dtype)


def to_velocity(
    x_t: Float[Tensor, "B F C H W"],
    x0: Float[Tensor, "B F C H W"],
    t: Float[Tensor, " B"] | Float[Tensor, "B F"],
    shift: float,
) -> Float[Tensor, "B F C H W"]:
    """v = (x_t - x0) / s, computed in float64."""
    return ((x_t.double() - x0.double()) / _level(t, shift, x_t)).to(x_t.dtype)


def draw_timesteps(
    u: Int[Tensor, "*shape"], shift: float, low: float = 20.0, high: float = 980.0
) -> Float[Tensor, "*shape"]:
    """Timesteps of uniform integers `u` in 0..999, shifted, then clamped to [low, high]."""
    return (warp(u / TIMESTEPS, shift) * TIMESTEPS).clamp(low, high)


def training_weights(shift: float) -> Float[Tensor, " entries"]:
    """Weights of the flow-matching loss by table entry, mean 1: a bell over the middle timesteps.

    Self-Forcing's repository weighs its pretraining so; distribution matching does not.
    """
    y = torch.exp(-2 * ((sigma_table(float(shift)) * TIMESTEPS - TIMESTEPS / 2) / TIMESTEPS) ** 2)
    y = y - y.min()
    return y * (TIMESTEPS / y.sum())


def euler_times(steps: int, shift: float) -> Float[Tensor, " {steps+1}"]:
    """Levels from 1 to 0 for an ODE sampler."""
    return warp(torch.linspace(1.0, 0.0, steps + 1), shift)
