"""The two interfaces: pixels <-> latents, and prompts -> embeddings."""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor


class StreamDecoder(Protocol):
    """Decodes one stream chunk by chunk, with a cache of its own.

    Attributes:
        memory: that cache, by names: tensors, which are never changed in place, and texts. Another decoder of the same
            codec that is given it goes on as this one would.
    """

    memory: dict[str, Any]

    def decode(self, latents: Tensor) -> Tensor:
        """`[B, F, C, H, W]` -> the pictures `[B, T, 3, h, w]` that these latents add to the stream."""


class Codec(Protocol):
    """Video `[B, T, 3, h, w]` in [-1, 1] <-> normalised latents `[B, F, C, H, W]`."""

    channels: int
    scale: int  # pixels a latent, in height and width
    fps: int

    def video_frames(self, frames: int) -> int:
        """Pictures that `frames` latent frames of a fresh clip stand for."""

    def encode(self, video: Tensor) -> Tensor: ...

    def decode(self, latents: Tensor) -> Tensor: ...

    def stream(self) -> StreamDecoder: ...


def starts_with_a_picture(codec: Codec) -> bool:
    """Whether a clip's first latent stands for one picture and the others for more, as in Wan's VAE."""
    return codec.video_frames(1) == 1 < codec.video_frames(2) - 1


class TextEncoder(Protocol):
    """Prompts -> embeddings `[B, text_tokens, text_width]`, zero-padded."""

    def embed(self, prompts: list[str]) -> Tensor: ...


def embedded(encoder: TextEncoder, prompts: list[str], device: torch.device) -> Tensor:
    """Embeddings on `device`; the host does not wait for them to arrive."""
    return encoder.embed(prompts).to(device, non_blocking=True)
