"""Motion of the camera and of things in view. Displacements are (x, y) pixels per picture of the *camera*, so the scene
moves the other way; flow is of the scene."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float, Num
from torch import Tensor

DIRECTIONS = ("east", "south-east", "south", "south-west", "west", "north-west", "north", "north-east")
"""By angle, in eighths of a turn from +x; y points down."""


def displacement(
    video: Float[Tensor, "B T 3 h w"], gap: int = 2, reach: int = 5, colour: bool = False, cap: float | None = None
) -> Float[Tensor, "B 2"]:
    """Camera motion of each clip by exhaustive block matching, in pixels per picture.

    The single whole-pixel shift within `reach` that best maps every picture to the one `gap` later, over their common
    area; brightness only. The resolution is 1/gap pixel per picture.

    Args:
        colour: compare all channels, for ground that has colours but no texture.
        cap: upper limit on differences, so that a small object that moves by itself does not outweigh faint ground that
            moves with the camera.
    """
    seen = video if colour else video.mean(2, keepdim=True)
    before, after = seen[:, :-gap], seen[:, gap:]
    height, width = seen.shape[-2:]
    best = torch.full((len(video),), math.inf, device=video.device)
    found = torch.zeros(len(video), 2, device=video.device)
    for dy in range(-reach, reach + 1):
        for dx in range(-reach, reach + 1):
            a = _overlap(before, dx, dy, height, width)
            b = _overlap(after, -dx, -dy, height, width)
            error = (a - b).abs()
            error = (error if cap is None else error.clamp_max(cap)).mean((1, 2, 3, 4))
            better = error < best
            best = torch.where(better, error, best)
            found[better] = torch.tensor([dx, dy], dtype=found.dtype, device=video.device)
    return found / gap


def _overlap(x: Tensor, dx: int, dy: int, height: int, width: int) -> Tensor:
    """The part of `x` [..., h, w] that is still in view after the camera moved by (dx, dy)."""
    return x[..., max(0, dy) : height + min(0, dy), max(0, dx) : width + min(0, dx)]


def heading(motion: Float[Tensor, "B 2"], still: float = 0.4) -> list[str | None]:
    """Name of the nearest of eight directions for each row of `motion`; None if it hardly moves."""
    angle = torch.atan2(motion[:, 1], motion[:, 0])
    eighth = (torch.round(angle / (math.pi / 4)) % 8).long().tolist()
    moves = (motion.abs().amax(1) > still).tolist()
    return [DIRECTIONS[e] if m else None for e, m in zip(eighth, moves, strict=True)]


def residual(video: Float[Tensor, "B T 3 h w"], velocity: Num[Tensor, "B 2"], margin: int = 4) -> Float[Tensor, " B"]:
    """The part of the motion that the prompt does not explain: mean squared difference of each picture and its
    predecessor shifted by `velocity` whole pixels, relative to the clip's variance; real flights score about 0.05 to
    0.2 because things move by themselves, unrelated pictures 2."""
    out = []
    height, width = video.shape[-2:]
    for clip, (dx, dy) in zip(video, velocity.long().tolist(), strict=True):
        inner = clip[1:, :, margin : height - margin, margin : width - margin]
        moved = clip[:-1, :, margin + dy : height - margin + dy, margin + dx : width - margin + dx]
        out.append((inner - moved).square().mean() / clip.var().clamp_min(1e-6))
    return torch.stack(out)


def forward(motion: Float[Tensor, "B *rest 2"], velocity: Num[Tensor, "B 2"]) -> Float[Tensor, " B *rest"]:
    """Component of `motion` along `velocity`, over its speed.

    1 is a flight as prompted, 0 stands still or drifts sideways, negative values fly backwards.
    """
    v = velocity.to(motion).reshape(len(velocity), *(1,) * (motion.dim() - 2), 2)
    return (motion * v).sum(-1) / v.square().sum(-1)


def flow(
    video: Float[Tensor, "B T 3 h w"], gap: int = 2, reach: int = 5, block: int = 7, least: float = 0.02
) -> Float[Tensor, "B T-{gap} 2 h w"]:
    """Optical flow of the scene, (x, y) pixels per picture, by block matching around every pixel.

    For each pixel, the whole-pixel shift within `reach` for which the `block` x `block` pixels around it, brightness
    only, are most similar `gap` pictures later. A longer shift is chosen only if its mean absolute error is smaller by
    `least`, so that plain ground, whose noise fits any shift, has no flow. The resolution is 1/gap. Things smaller than
    a block share its flow with their surroundings.
    """
    grey = video.mean(2)
    before, after = grey[:, :-gap], grey[:, gap:]
    height, width = grey.shape[-2:]
    best = torch.full_like(before, math.inf)
    found = before.new_zeros(*before.shape[:2], 2, height, width)
    shifts = [(dx, dy) for dy in range(-reach, reach + 1) for dx in range(-reach, reach + 1)]
    for dx, dy in sorted(shifts, key=lambda s: (s[0] ** 2 + s[1] ** 2, s)):
        error = torch.full_like(before, math.inf)
        here = _overlap(error, -dx, -dy, height, width)
        here.copy_(
            _boxed((_overlap(before, -dx, -dy, height, width) - _overlap(after, dx, dy, height, width)).abs(), block)
        )
        better = error < best - least
        best = torch.where(better, error, best)
        found[:, :, 0][better], found[:, :, 1][better] = float(dx), float(dy)
    return found / gap


def _boxed(error: Tensor, block: int) -> Tensor:
    """Mean over the part of the block around each pixel that is inside the picture."""
    flat = error.flatten(0, 1)[:, None]
    mean = torch.nn.functional.avg_pool2d(flat, block, 1, block // 2, count_include_pad=False)
    return mean[:, 0].reshape(error.shape)


def dynamic_degree(flow_: Float[Tensor, "B T 2 h w"], share: float = 0.05) -> Float[Tensor, "B T"]:
    """Mean length of the largest `share` of the flow vectors of each picture.

    The quantity that VBench's dynamic degree compares with a threshold (Huang et al. 2024), there with RAFT's flow.
    """
    length = flow_.norm(dim=2).flatten(2)
    return length.topk(max(1, round(share * length.shape[-1])), dim=-1).values.mean(-1)
