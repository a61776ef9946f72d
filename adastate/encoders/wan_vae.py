"""Wan2.1's own VAE and text encoder, from diffusers and transformers, frozen."""

from __future__ import annotations

import html
import re
import unicodedata
from functools import partial
from typing import Any

import torch
from einops import rearrange
from torch import Tensor, nn

from adastate.encoders.hub import HubPart, load_part, need
from adastate.encoders.interfaces import StreamDecoder


class WanVAE(nn.Module):
    """Wan's VAE from diffusers: F latents <-> 4F - 3 pictures, latents normalised as the DiT expects.

    Wan2.1's has 16 channels and x8 in space; that of Wan2.2 TI2V 48 and x16, for its pixels come in patches of 2 x 2.

    Args:
        pretrained: folder or hub name for `AutoencoderKLWan.from_pretrained`.
        subfolder: of the VAE in it; the Wan2.1 repositories in diffusers' layout have it in `vae`.
        dtype: in which it decodes; None takes the file's, float32 as a rule. It encodes in that one in any case, for
            the latents of a clip stay with what is trained on them.

    Raises:
        FileNotFoundError: the VAE is neither in a folder nor within reach; see `load_part`.
    """

    scale: int
    mean: Tensor
    std: Tensor

    def __init__(
        self, pretrained: str, subfolder: str | None = "vae", fps: int = 16, dtype: str | None = "bfloat16"
    ) -> None:
        super().__init__()
        load = partial(need("diffusers").AutoencoderKLWan.from_pretrained, subfolder=subfolder)
        self._hold(load_part(pretrained, HubPart("Wan VAE", subfolder), load), fps)
        if dtype:
            for part in (self.vae.post_quant_conv, self.vae.decoder):
                part.to(getattr(torch, dtype))

    @classmethod
    def of(cls, vae: Any, fps: int = 16) -> WanVAE:
        """Over an `AutoencoderKLWan` that is there already, and decodes in its own precision."""
        made = cls.__new__(cls)
        nn.Module.__init__(made)
        made._hold(vae, fps)
        return made

    def _hold(self, vae: Any, fps: int) -> None:
        self.vae: Any = vae.eval().requires_grad_(False)
        self.channels, self.fps = self.vae.config.z_dim, fps
        self.patch = int(self.vae.config.patch_size or 1)
        self.scale = 8 * self.patch
        self.register_buffer("mean", torch.tensor(self.vae.config.latents_mean).view(1, -1, 1, 1, 1))
        self.register_buffer("std", torch.tensor(self.vae.config.latents_std).view(1, -1, 1, 1, 1))

    def video_frames(self, frames: int) -> int:
        return 4 * frames - 3

    @torch.no_grad()
    def encode(self, video: Tensor) -> Tensor:
        if video.shape[1] % 4 != 1:
            raise ValueError(
                f"the Wan VAE takes 4F - 3 pictures, got {video.shape[1]}: cut the clip to 1, 5, 9, ... 81"
            )
        with torch.autocast(video.device.type, enabled=False):  # or training would see other latents than a stream
            z = self.vae.encode(video.transpose(1, 2).to(_dtype(self.vae.encoder))).latent_dist.mode()
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
        self.memory: dict[str, Any] = {}
        """Of the convolutions, by their number: a tensor, or a word of diffusers' that says how one begins."""

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        with torch.autocast(latents.device.type, enabled=False):
            return self._decode(latents)

    def _decode(self, latents: Tensor) -> Tensor:
        vae = self.codec.vae
        z = (latents.transpose(1, 2).float() * self.codec.std + self.codec.mean).to(_dtype(vae.decoder))
        z = vae.post_quant_conv(z)
        out = []
        for frame in z.split(1, 2):
            first = not self.memory
            if first:
                vae.clear_cache()  # counts the convolutions, each of which has its place in the cache
            cache: list[Any] = [self.memory.get(str(i)) for i in range(vae._conv_num)]
            out.append(vae.decoder(frame, feat_cache=cache, feat_idx=[0], first_chunk=first))
            self.memory = {str(i): held for i, held in enumerate(cache) if held is not None}
        p = self.codec.patch
        video = rearrange(torch.cat(out, 2), "b (c q p) t h w -> b t c (h p) (w q)", p=p, q=p)
        return video.float().clamp(-1, 1)


def _dtype(part: nn.Module) -> torch.dtype:
    return next(part.parameters()).dtype


class UMT5:
    """UMT5-XXL from transformers, cleaned and padded to 512 zero rows as Wan2.1 was trained.

    Args:
        pretrained: folder or hub name; subfolders `text_encoder` and `tokenizer` as in diffusers' Wan repositories.
        tokens: padded length.
        device, dtype: where the encoder runs. Without a device that is a GPU where there is one. The weights (11.4 GB
            in bfloat16) stay on the host all the same, and come over for each call with prompts that are not known
            yet, so that they leave the GPU's memory to those who train. For that they are pinned, which takes them out
            of what processes can share: so much memory of the host for each.
        keep: prompts whose embeddings are kept, those used last, so that a prompt in use (the negative one) is
            encoded once. A hundred tokens take 0.8 MB in bfloat16.

    Raises:
        FileNotFoundError: a part is neither in a folder nor within reach; see `load_part`.
    """

    def __init__(
        self, pretrained: str, tokens: int = 512, device: str | None = None, dtype: str = "bfloat16", keep: int = 1024
    ) -> None:
        transformers = need("transformers")
        words, net = (
            HubPart("UMT5 tokenizer", "tokenizer", "tokenizer_config.json"),
            HubPart("UMT5 encoder", "text_encoder"),
        )
        load = partial(transformers.AutoTokenizer.from_pretrained, subfolder=words.subfolder)
        self.tokenizer: Any = load_part(pretrained, words, load)
        encoder = transformers.UMT5EncoderModel
        load = partial(encoder.from_pretrained, subfolder=net.subfolder, dtype=getattr(torch, dtype))
        device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        self.tokens, self.device, self.keep = tokens, torch.device(device), keep
        self.model: Any = load_part(pretrained, net, load).eval().requires_grad_(False)
        self.width = int(self.model.config.d_model)
        self._known: dict[str, Tensor] = {}
        self._pinned = False

    @torch.no_grad()
    def embed(self, prompts: list[str]) -> Tensor:
        new = [p for p in dict.fromkeys(prompts) if p not in self._known]
        if new:
            ids = tokenized(self.tokenizer, new, self.tokens)
            lengths = ids.attention_mask.sum(1).tolist()
            hidden = self._encode(*(t.to(self.device) for t in (ids.input_ids, ids.attention_mask))).cpu()
            self._known.update({p: h[:n].clone() for p, h, n in zip(new, hidden, lengths, strict=True)})
        out = torch.zeros(len(prompts), self.tokens, self.width)
        for row, prompt in zip(out, prompts, strict=True):
            found = self._known[prompt] = self._known.pop(prompt)  # to the end, which is forgotten last
            row[: len(found)] = found
        for old in list(self._known)[: -self.keep]:
            del self._known[old]
        # or whoever takes them to a GPU would wait for them
        return _pinned(out) if self.device.type == "cuda" else out

    def _encode(self, ids: Tensor, mask: Tensor) -> Tensor:
        """With copies of the weights on the device. With several processes "cuda" is the one that each has set."""
        here = (*self.model.named_parameters(), *self.model.named_buffers())
        if self.device.type == "cuda" and not self._pinned:
            for _, t in here:
                t.data = _pinned(t.data)
            self._pinned = True
        weights = {name: t.to(self.device, non_blocking=True) for name, t in here}
        with torch.autocast(self.device.type, enabled=False):  # its norms and logits are made for its own dtype
            found: Tensor = torch.func.functional_call(self.model, weights, (ids, mask)).last_hidden_state
        return found


def _pinned(t: Tensor) -> Tensor:
    """In memory that a GPU reads by itself; as it is where no more of that can be had."""
    try:
        return t.pin_memory()
    except RuntimeError:
        return t


def tokenized(tokenizer: Any, prompts: list[str], tokens: int) -> Any:
    """Cleaned prompts as UMT5 takes them: `input_ids` and `attention_mask` `[B, tokens]`, cut or padded."""
    cleaned = [clean(prompt) for prompt in prompts]
    return tokenizer(cleaned, padding="max_length", truncation=True, max_length=tokens, return_tensors="pt")


def clean(prompt: str) -> str:
    """A prompt as Wan2.1 cleans it: composed characters, full-width ones narrow, straight quotation marks, HTML
    entities resolved (twice), one space between words.

    Wan2.1 leaves this to ftfy, which also repairs wrongly decoded text: that is not done here.
    """
    text = re.sub("[\u3000\uff01-\uffef]", lambda wide: unicodedata.normalize("NFKC", wide[0]), prompt)
    text = re.sub("[‘’‚‛ʼ]", "'", re.sub("[“”„‟]", '"', text))
    text = html.unescape(html.unescape(unicodedata.normalize("NFC", text)))
    return re.sub(r"\s+", " ", text).strip()
