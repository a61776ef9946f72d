"""What the small codecs share: a latent frame stands for a group of frames, and for nothing before or after it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from einops import rearrange
from safetensors.torch import load_file
from torch import Tensor, nn

from adastate.encoders.interfaces import Codec, StreamDecoder
from adastate.runtime import file_kind

PRETRAINED = Path(__file__).parents[1] / "pretrained"


class GroupCodec(nn.Module):
    """`group` frames of h x w pixels <-> one latent frame of `channels` x h/`scale` x w/`scale`.

    Latent frames are independent of each other, so streaming needs no cache. Latents are normalised per channel
    to mean 0 and deviation 1 by statistics stored with the weights.

    A subclass sets `encoder` (from `[N, 3 group, h, w]`) and `decoder` (back), then calls `load`.
    """

    mean: Tensor
    std: Tensor
    encoder: nn.Module
    decoder: nn.Module

    def __init__(self, scale: int, channels: int, group: int, fps: int) -> None:
        super().__init__()
        self.scale, self.channels, self.group, self.fps = scale, channels, group, fps
        self.register_buffer("mean", torch.zeros(channels))
        self.register_buffer("std", torch.ones(channels))

    def load(self, weights: str | None, shipped: Mapping[str, Path]) -> None:
        """From a safetensors file, or a bundled one, by its name; None keeps the random weights."""
        if weights is None:
            return
        path = shipped.get(weights, Path(weights))
        if not path.is_file():
            raise FileNotFoundError(f"no codec weights at {path}; `make train-codec` makes them")
        file_kind.kind(path)
        self.load_state_dict({k: v.float() for k, v in load_file(path).items()})

    def video_frames(self, frames: int) -> int:
        return frames * self.group

    def raw(self, video: Tensor) -> Tensor:
        """Latents before normalisation, `[B F, C, H, W]`, with gradient."""
        if video.shape[1] % self.group or video.shape[-1] % self.scale or video.shape[-2] % self.scale:
            raise ValueError(
                f"video of {video.shape[1]} frames of {video.shape[-2]} x {video.shape[-1]}: this codec takes a "
                f"multiple of {self.group} frames, with sides divisible by {self.scale}"
            )
        return self.encoder(rearrange(video, "b (f g) c h w -> (b f) (g c) h w", g=self.group))  # type: ignore[no-any-return]

    def reconstruct(self, raw: Tensor, frames: int) -> Tensor:
        """Pictures of unnormalised latents `[B F, C, H, W]`, not clamped, with gradient."""
        return rearrange(self.decoder(raw), "(b f) (g c) h w -> b (f g) c h w", f=frames, g=self.group)

    @torch.no_grad()
    def encode(self, video: Tensor) -> Tensor:
        z = (self.raw(video) - self.mean[:, None, None]) / self.std[:, None, None]
        return z.unflatten(0, (video.shape[0], -1))

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        raw = latents.flatten(0, 1).to(self.std.dtype) * self.std[:, None, None] + self.mean[:, None, None]
        return self.reconstruct(raw, latents.shape[1]).clamp(-1, 1)

    def stream(self) -> StreamDecoder:
        return Memoryless(self)


class Memoryless:
    """The stream decoder of a codec that decodes every latent by itself."""

    def __init__(self, codec: Codec) -> None:
        self.decode = codec.decode
        self.memory: dict[str, Any] = {}
