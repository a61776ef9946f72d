"""How long a stream depends on what it once saw: distances between streams that differ only in that."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor


def chunk_distance(a: Float[Tensor, "B F ..."], b: Float[Tensor, "B F ..."], chunk: int) -> Float[Tensor, "B chunks"]:
    """Root mean squared difference of two streams of latent frames, for each chunk."""
    if a.shape != b.shape or a.shape[1] % chunk:
        raise ValueError(f"streams {tuple(a.shape)} and {tuple(b.shape)}: give equal shapes of whole chunks of {chunk}")
    return (a - b).unflatten(1, (-1, chunk)).float().flatten(2).square().mean(2).sqrt()


def forgetting_curve(
    coupled: Float[Tensor, "B chunks"], unrelated: Float[Tensor, "B chunks"]
) -> Float[Tensor, " chunks"]:
    """Distance of streams with the same noise but different pasts, over that of streams whose noise differs as well.

    1: remembers; the streams are as far apart as any two. 0: has forgotten every difference of the pasts.
    """
    return coupled.mean(0) / unrelated.mean(0).clamp_min(1e-9)


def lifetime(curve: Float[Tensor, " chunks"], share: float = 0.5) -> float:
    """Chunks until a curve falls below `share` of its first value and stays there; its length if it never does."""
    above = (curve >= share * curve[0]).nonzero()[:, 0]
    return float(above[-1] + 1) if len(above) else 0.0
