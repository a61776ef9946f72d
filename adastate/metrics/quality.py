"""Distance of pictures from real ones: a Frechet distance on fixed features.

Features are of pairs of successive pictures, so that they capture motion as well: pooled outputs of a small random
convolutional network whose weights come from a seed, and statistics of colour and gradient. Nothing is trained or
downloaded, so numbers of two studies are comparable if `VERSION` is the same. Random features do not measure what
matters to people: a growing distance means that a stream leaves the world's distribution, not that it looks bad.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import torch
from jaxtyping import Float, Float64
from torch import Tensor, nn

VERSION = 1
"""Version of the features; raise it when they change."""

SEED = 20260530
CONVOLVED = 16


@cache
def _weights() -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(SEED)
    first = torch.randn(24, 6, 5, 5, generator=g) / (6 * 25) ** 0.5
    second = torch.randn(CONVOLVED, 24, 3, 3, generator=g) / (24 * 9) ** 0.5
    # zero-mean filters: colour itself has separate features
    return first - first.mean((2, 3), keepdim=True), second


def features(video: Float[Tensor, "B T 3 h w"]) -> Float[Tensor, "B T-1 D"]:
    """D = CONVOLVED + 10 numbers, one row per pair of successive pictures."""
    before, after = video[:, :-1], video[:, 1:]
    pairs = torch.cat([before, after], 2).flatten(0, 1).float()
    first, second = (w.to(pairs) for w in _weights())
    seen = nn.functional.conv2d(nn.functional.relu(nn.functional.conv2d(pairs, first)), second, stride=2)
    pooled = nn.functional.relu(seen).mean((2, 3))
    now = after.flatten(0, 1)
    across, down = (now[..., 1:] - now[..., :-1]).abs(), (now[..., 1:, :] - now[..., :-1, :]).abs()
    told = [now.mean((2, 3)), now.std((2, 3))]
    plain = [across.mean((1, 2, 3)), down.mean((1, 2, 3)), (now.amax(1) - now.amin(1)).mean((1, 2))]
    plain.append((after - before).abs().mean((2, 3, 4)).flatten())
    return torch.cat([pooled, *told, torch.stack(plain, 1)], 1).unflatten(0, before.shape[:2])


@dataclass(frozen=True)
class Moments:
    """Additive sums over samples of features: 1 + D + D D numbers, count, sum and sum of products."""

    sums: Float64[Tensor, "... sums"]

    @property
    def mean(self) -> Float64[Tensor, "... D"]:
        return self.sums[..., 1 : 1 + self.width] / self.sums[..., :1]

    @property
    def covariance(self) -> Float64[Tensor, "... D D"]:
        d, mean = self.width, self.mean
        square = (self.sums[..., 1 + d :] / self.sums[..., :1]).unflatten(-1, (d, d))
        return square - mean[..., :, None] * mean[..., None, :]

    @property
    def width(self) -> int:
        return round((self.sums.shape[-1] - 0.75) ** 0.5 - 0.5)


def moments(found: Float[Tensor, "... rows D"]) -> Moments:
    """Moments of features over their rows."""
    x = found.double()
    products = x.transpose(-1, -2) @ x
    count = torch.full((*x.shape[:-2], 1), float(x.shape[-2]), dtype=torch.float64, device=x.device)
    return Moments(torch.cat([count, x.sum(-2), products.flatten(-2)], -1))


def frechet(a: Moments, b: Moments, scale: Float[Tensor, " D"] | None = None) -> Float64[Tensor, " ..."]:
    """|m_a - m_b|^2 + tr(C_a + C_b - 2 (C_a C_b)^1/2) of normal distributions with these moments (Dowson and Landau
    1982), never below 0.

    Args:
        scale: standard deviation to divide each feature by, so that none dominates by its unit; default: those of `b`.
    """
    std = b.covariance.diagonal(dim1=-2, dim2=-1).clamp_min(1e-12).sqrt() if scale is None else scale.double()
    grow = 1 / (std[..., :, None] * std[..., None, :])
    ca, cb = a.covariance * grow, b.covariance * grow
    gap = ((a.mean - b.mean) / std).square().sum(-1)
    # the eigenvalues of root(C_b) C_a root(C_b), which is symmetric, are those of C_a C_b
    values, vectors = torch.linalg.eigh(cb)
    root = vectors * values.clamp_min(0).sqrt()[..., None, :] @ vectors.transpose(-1, -2)
    both = torch.linalg.eigvalsh(root @ ca @ root).clamp_min(0).sqrt().sum(-1)
    trace = (ca + cb).diagonal(dim1=-2, dim2=-1).sum(-1)
    return (gap + trace - 2 * both).clamp_min(0)
