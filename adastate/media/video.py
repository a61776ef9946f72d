"""Pictures and video: mp4 written picture by picture, animated GIFs, and pictures fitted to a size."""

from __future__ import annotations

import io
import math
import re
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any

import av
import numpy as np
import torch
from jaxtyping import Float, Float32, Shaped, UInt8
from PIL import Image
from torch import Tensor
from torch.nn.functional import interpolate

from adastate.runtime import atomic

BACKDROP = 255
"""Level of the grey behind transparent pictures: white, as on a page."""

WATCHABLE = 256
"""Shorter side, in pixels, below which a video file is enlarged."""

FRAGMENT_S = 2
"""Seconds of a growing video that become visible together; each begins with a whole picture, so that players seek."""


def to_uint8(pictures: Float[Tensor, "*shape"] | UInt8[Tensor, "*shape"]) -> UInt8[Tensor, "*shape"]:
    """Floats in [-1, 1] to bytes on the CPU; bytes pass. What is not finite becomes black."""
    if pictures.dtype == torch.uint8:
        return pictures.cpu()
    level = torch.nan_to_num(pictures.detach().float(), nan=-1.0, posinf=-1.0, neginf=-1.0)
    return ((level.clamp(-1, 1) + 1) * 127.5).round_().to(torch.uint8).cpu()


class VideoWriter:
    """Streams pictures into an h264 mp4; memory does not grow with the length of the video.

    The file appears under its name when it is complete: until `close` it lies beside it as `.<name>.part`, in fragments
    of `FRAGMENT_S` that a player shows while it grows, and that are left to be seen if the process is killed. Complete,
    it is an ordinary mp4 with one index.
    As a context manager it closes at the end, and leaves nothing behind if the block raises.

    Args:
        path: of the mp4; its folder is made.
        fps: pictures a second.
        height, width: of the pictures, in pixels. Odd sides are padded by one, as h264 needs even ones.
        scale: whole factor of enlargement, pixels stay squares; None enlarges tiny video to `WATCHABLE`.
        crf: quality of x264, smaller is better; 18 is hard to tell from the original.
    """

    def __init__(
        self, path: str | Path, fps: float, height: int, width: int, scale: int | None = None, crf: int = 18
    ) -> None:
        self.path = Path(path)
        self.height, self.width, self.pictures = height, width, 0
        self.scale = scale or math.ceil(WATCHABLE / min(height, width, WATCHABLE))
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._part = atomic.scratch_of(self.path)
        growing = {"movflags": "+hybrid_fragmented+frag_keyframe+default_base_moof", "flush_packets": "1"}
        self._container: Any = av.open(str(self._part), "w", format="mp4", options=growing)
        self._stream = self._container.add_stream("libx264", rate=Fraction(fps).limit_denominator(1000))
        self._stream.height, self._stream.width = _even(height * self.scale), _even(width * self.scale)
        self._stream.pix_fmt = "yuv420p"
        self._stream.codec_context.gop_size = max(1, round(FRAGMENT_S * fps))
        # One thread and a quick preset: a preview is encoded while training wants the processor. Pictures that wait for
        # later ones (bf) would begin after the time 0, as fragments have no edit list.
        self._stream.options = {"crf": str(crf), "preset": "superfast", "threads": "1", "bf": "0"}

    def append(self, pictures: Float[Tensor, " ..."] | UInt8[Tensor, " ..."]) -> None:
        """Adds `[T, 3, h, w]` to the end of the video."""
        if pictures.ndim != 4 or tuple(pictures.shape[1:]) != (3, self.height, self.width):
            raise ValueError(
                f"pictures of shape {tuple(pictures.shape)}, but {self.path.name} takes "
                f"[T, 3, {self.height}, {self.width}]"
            )
        for picture in to_uint8(pictures).permute(0, 2, 3, 1).numpy():
            large = picture.repeat(self.scale, 0).repeat(self.scale, 1)
            odd = [(0, side % 2) for side in large.shape[:2]]
            even = np.pad(large, (*odd, (0, 0)), mode="edge") if any(pad for _, pad in odd) else large
            self._container.mux(self._stream.encode(av.VideoFrame.from_ndarray(even, format="rgb24")))
            self.pictures += 1

    def close(self) -> None:
        """Completes the file and gives it its name."""
        if not self.pictures:
            self.discard()
            raise ValueError(f"no pictures for {self.path}: append some before closing, or call discard()")
        self._container.mux(self._stream.encode(None))
        self._container.close()
        atomic.settle(self._part, self.path)

    def discard(self) -> None:
        """Drops what was written; an older file of that name stays."""
        self._container.close()
        self._part.unlink(missing_ok=True)

    def __enter__(self) -> VideoWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        if kind is None:
            self.close()
        else:
            self.discard()


def _even(side: int) -> int:
    return side + side % 2


def gif_bytes(
    video: Float[Tensor, "T 3 h w"] | UInt8[Tensor, "T 3 h w"], fps: float, max_height: int = 240, max_frames: int = 40
) -> bytes:
    """Pictures as an endless GIF, small enough for an event file.

    Tiny pictures are enlarged by a whole factor, large ones shrunk to `max_height`. Of a video longer than
    `max_frames` every k-th picture is kept at its own time; beyond 0.25 s a picture that turns into a time lapse.
    """
    stride = math.ceil(video.shape[0] / max_frames)
    frames = [_shown(picture, max_height) for picture in to_uint8(video[::stride])]
    # One palette for all: a palette a frame doubles the size and makes still grounds flicker.
    k = math.ceil(frames[0].height / 64)
    sample = [np.asarray(frame)[::k, ::k] for frame in frames]
    palette = Image.fromarray(np.concatenate(sample)).quantize(256, Image.Quantize.MEDIANCUT)
    flat = [frame.quantize(palette=palette, dither=Image.Dither.NONE) for frame in frames]
    out = io.BytesIO()
    pause = round(1000 * min(stride / fps, 0.25))
    flat[0].save(out, "GIF", save_all=True, append_images=flat[1:], duration=pause, loop=0)
    return out.getvalue()


def _shown(picture: Tensor, height: int) -> Image.Image:
    """`[3, h, w]` as an image at most `height` high: enlarged by a whole factor, or shrunk to exactly that."""
    image = Image.fromarray(to_uint8(picture).permute(1, 2, 0).numpy())
    size = _fitted(picture.shape[-2], picture.shape[-1], height)
    return image.resize(size, Image.Resampling.NEAREST if size[1] >= picture.shape[-2] else Image.Resampling.LANCZOS)


def _fitted(h: int, w: int, height: int) -> tuple[int, int]:
    """Width and height of a picture of h x w made to fit."""
    if h <= height:
        return w * (height // h), h * (height // h)
    return max(1, round(w * height / h)), height


def held_state(state: Shaped[Tensor, "*lead _ 3 h w"], length: int) -> Shaped[Tensor, "*lead {length} 3 h w"]:
    """A state for as many pictures as its chunk has, each for an equal part of them."""
    return state[..., torch.arange(length) * state.shape[-4] // length, :, :, :]


def beside(
    video: Shaped[Tensor, "*lead T 3 h w"], state: Shaped[Tensor, "*lead _ 3 h w"] | None
) -> Shaped[Tensor, "*lead T 3 h wider"]:
    """Video left, the state of its chunk right, held to its length; black where there is none."""
    black = 0 if video.dtype == torch.uint8 else -1
    right = torch.full_like(video, black) if state is None else held_state(state, video.shape[-4])
    gap = torch.full_like(video[..., : max(2, video.shape[-1] // 16)], black)
    return torch.cat([video, gap, right], -1)


def file_name(prompt: str, index: int) -> str:
    words = re.sub(r"[^\w-]+", "-", prompt.lower()).strip("-")[:60]
    return f"{index:03d}-{words or 'empty'}"


def fit(picture: UInt8[Tensor, "3 H W"], size: tuple[int, int]) -> UInt8[Tensor, "3 h w"]:
    """Scales a picture until it covers `size` (height, width), and crops the centre."""
    height, width = picture.shape[-2:]
    scale = max(size[0] / height, size[1] / width)
    target = max(size[0], round(height * scale)), max(size[1], round(width * scale))
    if target != (height, width):
        picture = interpolate(picture[None], target, mode="bicubic", antialias=True)[0]
    top, left = (target[0] - size[0]) // 2, (target[1] - size[1]) // 2
    return picture[:, top : top + size[0], left : left + size[1]]


def to_float(video: UInt8[Tensor, "*shape"]) -> Float32[Tensor, "*shape"]:
    """Bytes to floats in [-1, 1]."""
    return video.float() / 127.5 - 1
