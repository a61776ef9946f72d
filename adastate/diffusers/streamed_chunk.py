"""What a pipeline hands out while it streams."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from diffusers.utils import BaseOutput


@dataclass
class StreamedChunk(BaseOutput):
    """What one step of a stream adds.

    Attributes:
        frames: its pictures, as `output_type` asks: numpy [B, T, h, w, 3] or torch [B, T, 3, h, w] in [0, 1], lists of
            PIL pictures, or with "latent" the latents [B, C, F, H, W].
        index: number of the chunk.
        state: pictures of the hidden state that was denoised with it, in the same form, where they are asked for and
            the system has one.
    """

    frames: Any
    index: int
    state: Any = None
