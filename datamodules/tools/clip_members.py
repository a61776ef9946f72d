"""What a clip becomes in a shard: video, or latents where there is a codec, caption, facts and actions."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from adastate.encoders import Codec, ResidualCodec, TinyCodec, WanVAE, residual_codec, tiny
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


def clip_members(
    video: Tensor,
    fps: float,
    caption: str,
    facts: Facts,
    codec: Codec | None,
    actions: Tensor | None = None,
    lossless: bool = False,
) -> dict[str, bytes]:
    """What a shard holds of one clip `[T, 3, h, w]` in [-1, 1]: video or latents, caption, facts and actions.

    `actions` [F, A] are 0/1, a row for each latent frame.
    """
    words = {"txt": caption.encode(), "json": json.dumps(facts, sort_keys=True).encode()}
    if actions is not None:
        words["actions.npy"] = npy(actions, torch.uint8)
    if codec is None:
        return {"mp4": encode_clip(to_uint8(video), fps, CRF, full_colour=True, lossless=lossless), **words}
    device = next(codec.parameters()).device if isinstance(codec, nn.Module) else video.device
    return {"latent.npy": npy(codec.encode(video[None].to(device))[0]), **words}


def load_codec(weights: str | None) -> Codec:
    """A codec by the name of a bundled one, its .safetensors file, or a Wan VAE's diffusers folder or hub name.

    None is the tiny world's. Which of the small codecs a file is for its tensors tell.

    Raises:
        FileNotFoundError: no weights there.
    """
    name = weights or "builtin"
    codec: TinyCodec | ResidualCodec | WanVAE
    if name in tiny.SHIPPED:
        codec = TinyCodec(name)
    elif name in residual_codec.SHIPPED:
        codec = ResidualCodec(name)
    elif name.endswith(".safetensors"):
        codec = ResidualCodec(name) if _has_residual_blocks(name) else TinyCodec(name)
    else:
        codec = WanVAE(name)
    return codec.to("cuda" if torch.cuda.is_available() else "cpu")


def _has_residual_blocks(file: str) -> bool:
    try:
        with safe_open(file, "pt") as tensors:
            return any(".first." in name for name in tensors.keys())  # noqa: SIM118
    except (OSError, SafetensorError):
        return False
