"""What a clip becomes in a shard: video, caption, facts, and latents where there is a codec."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import torch
from torch import Tensor, nn

from adastate.encoders import Codec, TinyCodec, WanVAE
from adastate.media.video import to_uint8
from datamodules.shards.shard_writer import npy
from datamodules.tools.footage import encode_clip

CRF = 12  # low, because these clips are trained on and were compressed once before
Facts = dict[str, Any]


def codec_name(codec: Codec | None) -> str | None:
    """Names a codec by its class and weights, so that latents of different codecs never share a folder."""
    if codec is None:
        return None
    if not isinstance(codec, nn.Module):
        return type(codec).__name__
    digest = hashlib.blake2b(digest_size=6)
    for name, tensor in codec.state_dict().items():
        digest.update(name.encode() + tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return f"{type(codec).__name__}-{digest.hexdigest()}"


def clip_members(video: Tensor, fps: float, caption: str, facts: Facts, codec: Codec | None) -> dict[str, bytes]:
    """What a shard holds of one clip `[T, 3, h, w]` in [-1, 1]: video or latents, caption and facts."""
    words = {"txt": caption.encode(), "json": json.dumps(facts, sort_keys=True).encode()}
    if codec is None:
        return {"mp4": encode_clip(to_uint8(video), fps, CRF, full_colour=True), **words}
    device = next(codec.parameters()).device if isinstance(codec, nn.Module) else video.device
    return {"latent.npy": npy(codec.encode(video[None].to(device))[0]), **words}


def load_codec(weights: str | None) -> Codec:
    """The tiny codec (None, or a .safetensors file of its own), else the Wan VAE of a diffusers folder or hub name."""
    tiny = weights is None or weights.endswith(".safetensors")
    codec = TinyCodec(weights or "builtin") if tiny else WanVAE(str(weights))
    return codec.to("cuda" if torch.cuda.is_available() else "cpu")
