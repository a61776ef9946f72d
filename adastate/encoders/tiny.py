"""The built-in codec and text encoder of the tiny size, which need no download."""

from __future__ import annotations

import hashlib
import re

import torch
from torch import Tensor, nn

from adastate.encoders.group_codec import PRETRAINED, GroupCodec

SHIPPED = {
    "builtin": PRETRAINED / "tiny_codec.safetensors",
    "journey": PRETRAINED / "journey_codec.safetensors",
    "fog": PRETRAINED / "fog_codec.safetensors",
}
"""Bundled codecs: of the tiny world, of its journeys and of those through fog."""


class TinyCodec(GroupCodec):
    """Small convolutional autoencoder: 3 pictures of h x w pixels <-> one latent frame of 16 x h/4 x w/4.

    Latent frames are independent of each other, so streaming needs no cache. Latents are normalised per channel
    to mean 0 and deviation 1 by statistics stored with the weights.

    Args:
        weights: safetensors file; "builtin" is the bundled codec of the tiny world, "journey" that
            of its journeys, None starts from random weights.
        width: of the convolutions.
        channels: latent channels.
        group: pictures a latent frame.
    """

    def __init__(
        self, weights: str | None = "builtin", width: int = 48, channels: int = 16, group: int = 3, fps: int = 8
    ) -> None:
        super().__init__(scale=4, channels=channels, group=group, fps=fps)
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
        self.load(weights, SHIPPED)


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
