"""Synthetic footage with known cuts, and a codec that costs nothing."""

from __future__ import annotations

import io
from pathlib import Path

import av
import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, interpolate

from adastate.encoders import StreamDecoder
from datamodules.tools.footage import encode_clip


def scene(seed: int, pictures: int, pan: int = 2, size: tuple[int, int] = (48, 64)) -> Tensor:
    """A camera that pans by `pan` pixels a picture over a landscape of its own, `[T, 3, h, w]` uint8."""
    g = torch.Generator().manual_seed(seed)
    height, width = size
    coarse = torch.rand(1, 3, height // 8, (width + pan * pictures) // 8 + 1, generator=g)
    ground = interpolate(coarse, (height, width + pan * pictures), mode="bicubic").clamp(0, 1)[0]
    return torch.stack([ground[..., pan * t : pan * t + width] for t in range(pictures)]).mul(255).to(torch.uint8)


def film(path: Path, *lengths: int, fps: float = 10, caption: str | None = "a pan", seed: int = 0) -> Path:
    """Writes an mp4 of scenes of the given lengths in pictures, with its caption beside it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encode_clip(torch.cat([scene(100 * seed + i, n) for i, n in enumerate(lengths)]), fps))
    if caption is not None:
        path.with_suffix(".txt").write_text(caption)
    return path


def frames(source: Path | bytes) -> Tensor:
    """Every picture of an upright video, `[T, 3, h, w]` uint8."""
    with av.open(str(source) if isinstance(source, Path) else io.BytesIO(source)) as container:
        pictures = [torch.from_numpy(f.to_ndarray(format="rgb24")) for f in container.decode(video=0)]
    return torch.stack(pictures).permute(0, 3, 1, 2).contiguous()


class StubCodec:
    """Three pictures a latent frame, the means of 8 x 8 pixels; counts its clips, and is interrupted on demand."""

    channels, scale, fps = 3, 8, 8

    def __init__(self, interrupted_after: int | None = None) -> None:
        self.encoded, self.interrupted_after = 0, interrupted_after

    def video_frames(self, frames: int) -> int:
        return 3 * frames

    def encode(self, video: Tensor) -> Tensor:
        if self.encoded == self.interrupted_after:
            raise KeyboardInterrupt
        self.encoded += 1
        return avg_pool2d(video[0, ::3], 8)[None]

    def decode(self, latents: Tensor) -> Tensor:
        raise AssertionError("nothing here decodes")

    def stream(self) -> StreamDecoder:
        raise AssertionError("nothing here decodes")
