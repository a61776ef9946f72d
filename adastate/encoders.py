"""Pixels <-> latents and prompts -> embeddings, behind two small interfaces.

The built-in codec and text encoder need no download and serve the tiny size. WanVAE and UMT5 wrap diffusers'
and transformers' classes, which are imported where they are used: they cost seconds to import.
"""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import Any, Protocol

import torch
from einops import rearrange
from safetensors.torch import load_file
from torch import Tensor, nn

PRETRAINED = Path(__file__).parent / "pretrained"


class StreamDecoder(Protocol):
    """Decodes one stream chunk by chunk, with a cache of its own."""

    def decode(self, latents: Tensor) -> Tensor:
        """`[B, F, C, H, W]` -> the pictures `[B, T, 3, h, w]` that these latents add to the stream."""


class Codec(Protocol):
    """Video `[B, T, 3, h, w]` in [-1, 1] <-> normalised latents `[B, F, C, H, W]`."""

    channels: int
    scale: int  # pixels a latent, in height and width
    fps: int

    def pictures(self, frames: int) -> int:
        """Pictures that `frames` latent frames of a fresh clip stand for."""

    def encode(self, video: Tensor) -> Tensor: ...

    def decode(self, latents: Tensor) -> Tensor: ...

    def stream(self) -> StreamDecoder: ...


def starts_with_a_picture(codec: Codec) -> bool:
    """Whether a clip's first latent stands for one picture and the others for more, as in Wan's VAE."""
    return codec.pictures(1) == 1 < codec.pictures(2) - 1


class TextEncoder(Protocol):
    """Prompts -> embeddings `[B, text_tokens, text_width]`, zero-padded."""

    def embed(self, prompts: list[str]) -> Tensor: ...


class TinyCodec(nn.Module):
    """Small convolutional autoencoder: 3 pictures of h x w pixels <-> one latent frame of 16 x h/4 x w/4.

    Latent frames are independent of each other, so streaming needs no cache. Latents are normalised per channel
    to mean 0 and deviation 1 by statistics stored with the weights.

    Args:
        weights: safetensors file; "builtin" is the codec of the tiny world that ships with the package, None starts
            from random weights.
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
            path = PRETRAINED / "tiny_codec.safetensors" if weights == "builtin" else Path(weights)
            if not path.is_file():
                raise FileNotFoundError(f"no codec weights at {path}; `make train-codec` makes them")
            self.load_state_dict({k: v.float() for k, v in load_file(path).items()})

    def pictures(self, frames: int) -> int:
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


class WanVAE(nn.Module):
    """Wan2.1's VAE from diffusers: F latents <-> 4F - 3 pictures, x8 in space, latents normalised as the DiT expects.

    Args:
        pretrained: folder or hub name for `AutoencoderKLWan.from_pretrained`.
        subfolder: of the VAE in it; the Wan2.1 repositories in diffusers' layout have it in `vae`.
    """

    scale = 8
    mean: Tensor
    std: Tensor

    def __init__(self, pretrained: str, subfolder: str | None = "vae", fps: int = 16) -> None:
        super().__init__()
        from diffusers import AutoencoderKLWan

        self.vae: Any = AutoencoderKLWan.from_pretrained(pretrained, subfolder=subfolder).eval().requires_grad_(False)
        self.channels, self.fps = self.vae.config.z_dim, fps
        self.register_buffer("mean", torch.tensor(self.vae.config.latents_mean).view(1, -1, 1, 1, 1))
        self.register_buffer("std", torch.tensor(self.vae.config.latents_std).view(1, -1, 1, 1, 1))

    def pictures(self, frames: int) -> int:
        return 4 * frames - 3

    @torch.no_grad()
    def encode(self, video: Tensor) -> Tensor:
        if video.shape[1] % 4 != 1:
            raise ValueError(
                f"the Wan VAE takes 4F - 3 pictures, got {video.shape[1]}: cut the clip to 1, 5, 9, ... 81"
            )
        z = self.vae.encode(video.transpose(1, 2).to(self.vae.dtype)).latent_dist.mode()
        return ((z.float() - self.mean) / self.std).transpose(1, 2)

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        return self.stream().decode(latents)

    def stream(self) -> StreamDecoder:
        return _WanStream(self)


class _WanStream:
    """Keeps the VAE's causal feature cache between chunks, so that streaming equals decoding the whole clip.

    diffusers resets that cache at every `decode`, hence its parts are called one latent frame at a time. The cache
    lives here and not in the VAE: two streams (the video and the hidden states) never mix.
    """

    def __init__(self, codec: WanVAE) -> None:
        self.codec = codec
        self.cache: list[Any] | None = None

    def decode(self, latents: Tensor) -> Tensor:
        vae = self.codec.vae
        z = (latents.transpose(1, 2).float() * self.codec.std + self.codec.mean).to(vae.dtype)
        z = vae.post_quant_conv(z)
        out = []
        for i in range(z.shape[2]):
            first = self.cache is None
            if self.cache is None:
                vae.clear_cache()
                self.cache = [None] * vae._conv_num
            out.append(
                vae.decoder(
                    z[:, :, i : i + 1], feat_cache=self.cache, feat_idx=[0], **({"first_chunk": True} if first else {})
                )
            )
        return torch.cat(out, 2).transpose(1, 2).float().clamp(-1, 1)


class UMT5:
    """UMT5-XXL from transformers, cleaned and padded to 512 zero rows as Wan2.1 was trained.

    Args:
        pretrained: folder or hub name; subfolders `text_encoder` and `tokenizer` as in diffusers' Wan repositories.
        tokens: padded length.
        device, dtype: where the encoder runs. Embeddings are kept per prompt, so that each is encoded once.
    """

    def __init__(self, pretrained: str, tokens: int = 512, device: str = "cpu", dtype: str = "bfloat16") -> None:
        from transformers import AutoTokenizer, UMT5EncoderModel

        self.tokens, self.device = tokens, torch.device(device)
        self.tokenizer: Any = AutoTokenizer.from_pretrained(pretrained, subfolder="tokenizer")
        model: Any = UMT5EncoderModel.from_pretrained(pretrained, subfolder="text_encoder", dtype=getattr(torch, dtype))
        self.model: Any = model.to(self.device).eval()
        self.width = int(model.config.d_model)
        self._known: dict[str, Tensor] = {}

    @torch.no_grad()
    def embed(self, prompts: list[str]) -> Tensor:
        new = [p for p in dict.fromkeys(prompts) if p not in self._known]
        if new:
            clean = [re.sub(r"\s+", " ", p).strip() for p in new]
            ids = self.tokenizer(
                clean, padding="max_length", truncation=True, max_length=self.tokens, return_tensors="pt"
            ).to(self.device)
            hidden = self.model(ids.input_ids, ids.attention_mask).last_hidden_state.float()
            hidden = hidden * ids.attention_mask[..., None]
            self._known.update(zip(new, hidden.cpu().unbind(0), strict=True))
        return torch.stack([self._known[p] for p in prompts])
