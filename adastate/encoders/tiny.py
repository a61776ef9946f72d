"""The built-in codec and text encoder of the tiny size, which need no download."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

import torch
from einops import rearrange
from safetensors.torch import load_file
from torch import Tensor, nn

from adastate.encoders.interfaces import StreamDecoder

PRETRAINED = Path(__file__).parents[1] / "pretrained"
SHIPPED = {
    "builtin": PRETRAINED / "tiny_codec.safetensors",
    "journey": PRETRAINED / "journey_codec.safetensors",
    "fog": PRETRAINED / "fog_codec.safetensors",
}
"""Codecs that ship: of the tiny world, of its journeys and of those through fog."""


class TinyCodec(nn.Module):
    """Small convolutional autoencoder: 3 pictures of h x w pixels <-> one latent frame of 16 x h/4 x w/4.

    Latent frames are independent of each other, so streaming needs no cache. Latents are normalised per channel
    to mean 0 and deviation 1 by statistics stored with the weights.

    Args:
        weights: safetensors file; "builtin" is the codec of the tiny world that ships with the package, "journey" that
            of its journeys, None starts from random weights.
        width: of the convolutions.
        channels: latent channels.
        group: pictures a latent frame.
    """

    scale = 4
    mean: Tensor
    std: Tensor

    def __init__(
        self, weights: str | None = "builtin", width: int = 48, channels: int = 16, group: int = 3, fps: int = 8
    ) -> None:
        super().__init__()
        self.channels, self.group, self.fps = channels, group, fps
        conv, act, w = nn.Conv2d, nn.SiLU, width
        self.encoder = nn.Sequential(
            conv(3 * group, w, 3, padding=1), act(),
            conv(w, w, 4, 2, 1), act(),
            conv(w, 2 * w, 4, 2, 1), act(),
            conv(2 * w, 2 * w, 3, padding=1), act(),
            conv(2 * w, channels, 3, padding=1),
        )  # fmt: skip
        self.decoder = nn.Sequential(
            conv(channels, 2 * w, 3, padding=1), act(),
            conv(2 * w, 2 * w, 3, padding=1), act(),
            conv(2 * w, 4 * w, 3, padding=1), nn.PixelShuffle(2), act(),
            conv(w, w, 3, padding=1), act(),
            conv(w, 4 * w, 3, padding=1), nn.PixelShuffle(2), act(),
            conv(w, 3 * group, 3, padding=1),
        )  # fmt: skip
        self.register_buffer("mean", torch.zeros(channels))
        self.register_buffer("std", torch.ones(channels))
        if weights is not None:
            path = SHIPPED.get(weights, Path(weights))
            if not path.is_file():
                raise FileNotFoundError(f"no codec weights at {path}; `make train-codec` makes them")
            self.load_state_dict({k: v.float() for k, v in load_file(path).items()})

    def video_frames(self, frames: int) -> int:
        return frames * self.group

    def raw(self, video: Tensor) -> Tensor:
        """Latents before normalisation, `[B F, C, H, W]`, with gradient."""
        if video.shape[1] % self.group or video.shape[-1] % self.scale or video.shape[-2] % self.scale:
            raise ValueError(
                f"video of {video.shape[1]} pictures of {video.shape[-2]} x {video.shape[-1]}: this codec takes a "
                f"multiple of {self.group} pictures, with sides divisible by {self.scale}"
            )
        return self.encoder(rearrange(video, "b (f g) c h w -> (b f) (g c) h w", g=self.group))

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
        return self


class TinyText:
    """Bag of words: every word is hashed to a fixed random vector, so an unknown word works like any other.

    Words are runs of letters, digits and hyphens; a prompt longer than `tokens` words is cut. An empty prompt is
    all zeros, which serves as the negative prompt.
    """

    def __init__(self, tokens: int = 16, width: int = 64) -> None:
        self.tokens, self.width = tokens, width
        self._words: dict[str, Tensor] = {}

    def embed(self, prompts: list[str]) -> Tensor:
        out = torch.zeros(len(prompts), self.tokens, self.width)
        for row, prompt in zip(out, prompts, strict=True):
            for slot, word in zip(row, re.findall(r"[\w-]+", prompt.lower()), strict=False):
                slot.copy_(self._word(word))
        return out

    def _word(self, word: str) -> Tensor:
        if word not in self._words:
            seed = int.from_bytes(hashlib.blake2b(word.encode(), digest_size=8).digest(), "big") >> 1
            self._words[word] = torch.randn(self.width, generator=torch.Generator().manual_seed(seed))
        return self._words[word]
