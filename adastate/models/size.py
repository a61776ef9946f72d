"""The geometry of a network, as configured; importing it needs no torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

COUNTS = (
    "width", "layers", "heads", "ffn", "channels", "text_width", "text_tokens", "time_embedding_dim",
    "rope_max_frames",
)  # fmt: skip
"""Fields of a size that must be at least 1."""


@dataclass(frozen=True)
class Size:
    """Geometry of the network. The defaults are the tiny size; conf/sizes/ holds Wan2.1's.

    Attributes:
        width: model width D, a multiple of `heads`.
        layers: transformer blocks.
        heads: attention heads N; head dim K = width / heads must be even.
        ffn: hidden width of the feed-forward layers.
        channels: latent channels C.
        text_width: width of the text embeddings.
        text_tokens: length to which prompts are padded with zeros, which are attended to, as in Wan.
        time_embedding_dim: width of the sinusoidal time embedding.
        patch: patch size in time (1), height and width.
        rope_max_frames: rows of the RoPE table in time; a position beyond is an error.
        actions: number of columns that steer each latent frame; 0: the network cannot be steered.
        eps: of every normalisation.
        backbone: a name in adastate.models.backbones.BACKBONES, or the dotted path of your own Backbone.
    """

    width: int = 128
    layers: int = 4
    heads: int = 4
    ffn: int = 512
    channels: int = 16
    text_width: int = 64
    text_tokens: int = 16
    time_embedding_dim: int = 64
    patch: tuple[int, int, int] = (1, 2, 2)
    rope_max_frames: int = 1024
    actions: int = 0
    eps: float = 1e-6
    backbone: str = "wan"

    def tokens(self, latent_size: Sequence[int]) -> int:
        """Number of tokens in a frame of this latent height and width."""
        return latent_size[0] // self.patch[1] * (latent_size[1] // self.patch[2])

    def __post_init__(self) -> None:
        for name in COUNTS:
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it has to be at least 1")
        if min(self.patch) < 1:
            raise ValueError(f"patch is {list(self.patch)}; each side of a patch has to be at least 1")
        if self.width % self.heads:
            raise ValueError(f"width {self.width} is not divisible by heads {self.heads}: change one of them")
        if (self.width // self.heads) % 2:
            raise ValueError(f"head dim {self.width // self.heads} is odd, rotary positions need an even one")
        if self.actions < 0:
            raise ValueError(f"actions is {self.actions}; it has to be at least 0 (0: the network cannot be steered)")
        if self.patch[0] != 1:
            raise ValueError(f"the patch spans {self.patch[0]} latent frames; it must span 1, as in Wan2.1")


def divisors(n: int) -> list[int]:
    return [d for d in range(1, n + 1) if n % d == 0]


def check_degree(degree: int, heads: int, tokens: int, world: int | None = None) -> None:
    """Raises ValueError, with the degrees that are possible, if `degree` ranks cannot share a sample.

    Args:
        tokens: of a latent frame.
        world: number of ranks; None: as many as needed.
    """
    fitting = [d for d in divisors(heads) if tokens % d == 0 and (world is None or world % d == 0)]
    if degree in fitting:
        return
    if degree < 1:
        why = "the number of ranks that share a sample is at least 1"
    elif heads % degree:
        why = f"{heads} heads are not divisible by it"
    elif tokens % degree:
        why = f"frames of {tokens} tokens are not divisible by it"
    elif world is not None and degree > world:
        why = f"there are only {world} ranks"
    else:
        why = f"{world} ranks cannot be divided into groups of it"
    raise ValueError(f"sequence_parallel is {degree}, but {why}: use one of {', '.join(map(str, fitting))}")
