"""The losses, as pure functions of tensors.

Letters: x0 clean latents, eps noise, s = sigma(t), v = eps - x0 the velocity, g the distribution-matching gradient.
Latents are `[B, F, C, H, W]`. Sources: flow matching (Lipman et al. 2023); DMD (Yin et al. 2024, eq. 7 and 8) as
Self-Forcing uses it (Huang et al. 2025); the horizon weight is AdaState's.
"""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Bool, Float, Float64
from torch import Tensor

HorizonLaw = Literal["linear", "none"]


def flow_matching(
    velocity: Float[Tensor, "B F C H W"],
    x0: Float[Tensor, "B F C H W"],
    noise: Float[Tensor, "B F C H W"],
    mask: Bool[Tensor, "B F"] | None = None,
) -> Float[Tensor, ""]:
    """mean |v_net - (eps - x0)|^2, over the frames of `mask` if one is given."""
    return _frame_mean((velocity.float() - (noise - x0).float()).square(), mask)


def per_sample_flow_matching(
    velocity: Float[Tensor, "B F C H W"],
    x0: Float[Tensor, "B F C H W"],
    noise: Float[Tensor, "B F C H W"],
    loss_mask: Bool[Tensor, " F"] | None = None,
) -> Float[Tensor, " B"]:
    """The same for each sample, over the frames of `loss_mask`; used for curves by noise level."""
    error = (velocity.float() - (noise - x0).float()).square()
    return (error if loss_mask is None else error[:, _true(loss_mask, error.device)[0]]).flatten(1).mean(1)


def regression(
    x0_net: Float[Tensor, "B F C H W"], x0: Float[Tensor, "B F C H W"], mask: Bool[Tensor, "B F"] | None = None
) -> Float[Tensor, ""]:
    """ODE regression: mean |x0_net - x0|^2 against the end of the teacher's trajectory."""
    return _frame_mean((x0_net.float() - x0.float()).square(), mask)


def dmd_gradient(
    x: Float[Tensor, "B F C H W"], x0_real: Float[Tensor, "B F C H W"], x0_fake: Float[Tensor, "B F C H W"]
) -> Float[Tensor, "B F C H W"]:
    """g = (x0_fake - x0_real) / mean|x - x0_real|, the mean over all elements of a sample; nan becomes 0.

    It points where the student's samples are denser than the teacher's (DMD eq. 7), does not change when all
    three are rescaled together, and is zero when the scores agree (law 10).
    """
    norm = (x - x0_real).abs().mean(dim=tuple(range(1, x.dim())), keepdim=True)
    return torch.nan_to_num((x0_fake - x0_real) / norm)


def dmd(
    x: Float[Tensor, "B F C H W"],
    g: Float[Tensor, "B F C H W"],
    weight: Float[Tensor, " F"] | None = None,
    mask: Bool[Tensor, "B F"] | None = None,
    samples: Float[Tensor, " B"] | None = None,
) -> Float64[Tensor, ""]:
    """1/2 mean_i w_i |x_i - sg(x_i - g_i)|^2, whose gradient with respect to x is w g / size. In float64.

    Args:
        x: student's samples, with gradient.
        g: `dmd_gradient`.
        weight: one per frame, mean 1 over the frames that carry loss.
        mask: frames that carry loss, preferably on the host.
        samples: one weight per sample, see `reward_weight`.
    """
    square = (x.double() - (x.double() - g.double()).detach()).square()
    if weight is not None:
        square = square * weight.to(square, non_blocking=True)[None, :, None, None, None]
    if samples is not None:
        square = square * samples.to(square)[:, None, None, None, None]
    return 0.5 * _frame_mean(square, mask)


def sid(
    x: Float[Tensor, "B F C H W"],
    x0_real: Float[Tensor, "B F C H W"],
    x0_fake: Float[Tensor, "B F C H W"],
    alpha: float = 1.0,
    weight: Float[Tensor, " F"] | None = None,
    mask: Bool[Tensor, "B F"] | None = None,
) -> Float64[Tensor, ""]:
    """Score identity distillation: mean_i w_i (r - f)_i ((r - x)_i - alpha (r - f)_i) / mean|x - r|. In float64.

    Unlike `dmd` its gradient goes through both scores, r = x0_real and f = x0_fake, to the student's samples x, so
    they must be computed with a graph from a noisy x; the networks' own weights must be frozen. Source: Zhou et al.
    2024, in the form in which Self-Forcing trains with it. Both means are over the frames of `mask` if one is given.
    """
    x, real, fake = x.double(), x0_real.double(), x0_fake.double()
    on = torch.ones(x.shape[:2], dtype=x.dtype, device=x.device) if mask is None else mask.to(x, non_blocking=True)
    by_frame = (x - real).detach().abs().flatten(2).mean(2)
    norm = ((by_frame * on).sum(1) / on.sum(1)).clamp_min(1e-30)[:, None, None, None, None]
    each = (real - fake) * ((real - x) - alpha * (real - fake)) / norm
    if weight is not None:
        each = each * weight.to(each, non_blocking=True)[None, :, None, None, None]
    return _frame_mean(each, mask)


def reward_weight(reward: Float[Tensor, " B"], beta: float) -> Float64[Tensor, " B"]:
    """exp(beta r) for rewards: samples that move count more (Reward-Forcing, with beta = 2)."""
    return (beta * reward.double()).exp()


def horizon_weight(
    frames: int, alpha: float, law: HorizonLaw = "linear", loss_mask: Bool[Tensor, " {frames}"] | None = None
) -> Float64[Tensor, " {frames}"]:
    """w_i = 1 + alpha i / (N - 1) over the N frames that carry loss, divided by its mean.

    Errors grow along a rollout, so late frames get more of the supervision; alpha = 0 is plain DMD. The linear
    growth is the authors', the normalisation is ours (`horizon_law`). `loss_mask` marks the N frames.
    """
    on = torch.ones(frames, dtype=torch.bool) if loss_mask is None else loss_mask.cpu()
    n = int(on.sum())
    weight = torch.zeros(frames, dtype=torch.float64)
    if alpha < 0:
        raise ValueError(f"horizon_weight is {alpha}; it must not be negative, 0 turns it off")
    ramp = (
        torch.arange(n, dtype=torch.float64) / max(n - 1, 1) if law == "linear" else torch.zeros(n, dtype=torch.float64)
    )
    weight[on] = (1 + alpha * ramp) / (1 + alpha * ramp).mean()
    return weight


def _frame_mean(error: Tensor, mask: Tensor | None) -> Tensor:
    """Mean over `[B, F, C, H, W]`, or over the frames that `mask` [B, F] keeps."""
    return error.mean() if mask is None else error[_true(mask, error.device)].mean()


def _true(mask: Tensor, device: torch.device) -> tuple[Tensor, ...]:
    """Indices that a mask keeps. A mask on the host is counted there; on a GPU the host would have to wait."""
    return tuple(at.to(device, non_blocking=True) for at in mask.nonzero(as_tuple=True))
