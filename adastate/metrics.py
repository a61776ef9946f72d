"""What a video does, as pure functions of pixels. Video is `[B, T, 3, h, w]` in [-1, 1]; displacements are (x, y)
pixels a picture of the *camera*, so the scene moves the other way."""

from __future__ import annotations

import math

import torch
from torch import Tensor

DIRECTIONS = ("east", "south-east", "south", "south-west", "west", "north-west", "north", "north-east")
"""By angle, eighths of a turn from +x on; y points down."""


def displacement(video: Tensor, gap: int = 2, reach: int = 5) -> Tensor:
    """Camera motion of each clip by exhaustive block matching, `[B, 2]` pixels a picture.

    The one whole-pixel shift within `reach` that best carries every picture to the one `gap` later, over their
    common area; brightness only. Resolution is 1/gap pixel a picture.
    """
    grey = video.mean(2)
    before, after = grey[:, :-gap], grey[:, gap:]
    height, width = grey.shape[-2:]
    best = torch.full((len(video),), math.inf, device=video.device)
    found = torch.zeros(len(video), 2, device=video.device)
    for dy in range(-reach, reach + 1):
        for dx in range(-reach, reach + 1):
            a = _overlap(before, dx, dy, height, width)
            b = _overlap(after, -dx, -dy, height, width)
            error = (a - b).abs().mean((1, 2, 3))
            better = error < best
            best = torch.where(better, error, best)
            found[better] = torch.tensor([dx, dy], dtype=found.dtype, device=video.device)
    return found / gap


def _overlap(x: Tensor, dx: int, dy: int, height: int, width: int) -> Tensor:
    """The part of `x` [..., h, w] that is still in view after the camera moved by (dx, dy)."""
    return x[..., max(0, dy) : height + min(0, dy), max(0, dx) : width + min(0, dx)]


def heading(motion: Tensor, still: float = 0.4) -> list[str | None]:
    """Name of the nearest of eight directions for each row of `motion` [B, 2]; None where it hardly moves."""
    angle = torch.atan2(motion[:, 1], motion[:, 0])
    eighth = (torch.round(angle / (math.pi / 4)) % 8).long().tolist()
    moves = (motion.abs().amax(1) > still).tolist()
    return [DIRECTIONS[e] if m else None for e, m in zip(eighth, moves, strict=True)]


def residual(video: Tensor, velocity: Tensor, margin: int = 4) -> Tensor:
    """What the prompted motion does not explain: mean squared difference of each picture and its predecessor moved
    by `velocity` [B, 2] whole pixels, relative to the clip's variance. `[B]`; real flights score about 0.05 to 0.2
    because things move by themselves, unrelated pictures 2."""
    out = []
    height, width = video.shape[-2:]
    for clip, (dx, dy) in zip(video, velocity.long().tolist(), strict=True):
        inner = clip[1:, :, margin : height - margin, margin : width - margin]
        moved = clip[:-1, :, margin + dy : height - margin + dy, margin + dx : width - margin + dx]
        out.append((inner - moved).square().mean() / clip.var().clamp_min(1e-6))
    return torch.stack(out)


def ground(video: Tensor, colours: Tensor) -> Tensor:
    """Index of the colour `[P, 3]` nearest to each clip's median colour, `[B]`."""
    median = video.movedim(2, -1).flatten(1, 3).median(1).values
    return (median[:, None] - colours[None].to(median)).square().sum(-1).argmin(1)


def contrast(video: Tensor) -> Tensor:
    """Standard deviation over each picture's pixels, mean over the clip, `[B]`."""
    return video.flatten(3).std(-1).mean((1, 2))


def change(video: Tensor, gap: int = 1) -> Tensor:
    """Mean absolute difference of pictures `gap` apart over the clip's contrast, `[B]`.

    It sees motion of any part, where `displacement` needs the whole picture to move, but flicker as well: what moves
    changes more over a larger gap, what flickers in place does not. 0 is a still; unrelated pictures score about 1.1.
    """
    return (video[:, gap:] - video[:, :-gap]).abs().mean((1, 2, 3, 4)) / contrast(video).clamp_min(1e-6)


def saturation(video: Tensor) -> Tensor:
    """Spread between the largest and the smallest colour channel, mean over the clip, `[B]`."""
    return (video.amax(2) - video.amin(2)).mean((1, 2, 3))


def sharpness(video: Tensor) -> Tensor:
    """Mean absolute difference of neighbouring pixels, `[B]`."""
    across = (video[..., 1:] - video[..., :-1]).abs().mean((1, 2, 3, 4))
    down = (video[..., 1:, :] - video[..., :-1, :]).abs().mean((1, 2, 3, 4))
    return (across + down) / 2


def nearest(video: Tensor, others: Tensor) -> Tensor:
    """Index of the clip of `others` [N, T, 3, h, w] whose mean picture is nearest to that of each clip, `[B]`."""
    return torch.cdist(video.mean(1).flatten(1), others.mean(1).flatten(1)).argmin(1)


def drift(first: Tensor, last: Tensor) -> Tensor:
    """How far a quality has moved from the first to the last second: |log(last / first)|, `[B]`; 0 is none."""
    return (last.clamp_min(1e-6) / first.clamp_min(1e-6)).log().abs()
