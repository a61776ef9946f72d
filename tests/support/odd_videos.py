"""Videos as people bring them: cut without encoding, sideways, with covers, with timestamps that jump."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import torch
from av.stream import Disposition
from PIL import Image
from torch import Tensor

MILLI = Fraction(1, 1000)


def steps(pictures: int, step: int = 4, size: tuple[int, int] = (48, 64)) -> Tensor:
    """Grey pictures, each brighter by `step` than the one before: their level tells their number."""
    levels = torch.arange(pictures, dtype=torch.uint8)[:, None, None, None] * step
    return levels.expand(pictures, 3, *size).contiguous()


def write(
    path: Path,
    video: Tensor,
    seconds: Sequence[float] | None = None,
    fps: int = 10,
    keyframes: int = 20,
    aspect: Fraction | None = None,
    matrix: Sequence[int] | None = None,
    codec: str = "libx264",
) -> Path:
    """Writes `[T, 3, h, w]` uint8 with a picture at each of `seconds`, and B-frames where h264 is the codec."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=fps)
        assert isinstance(stream, av.VideoStream)
        stream.height, stream.width = video.shape[-2:]
        stream.pix_fmt = "yuv420p"
        stream.codec_context.thread_count = 1  # or two encodings may differ in their last bits
        stream.options = {"g": str(keyframes), "bf": "2", "crf": "10"} if codec == "libx264" else {}
        if aspect is not None:
            stream.codec_context.sample_aspect_ratio = aspect
        if matrix is not None:
            stream.set_display_matrix(matrix)
        if seconds is not None:
            stream.codec_context.time_base = MILLI
        for n, picture in enumerate(video.permute(0, 2, 3, 1).contiguous().numpy()):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            if seconds is not None:
                frame.pts, frame.time_base = round(1000 * seconds[n]), MILLI
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def cut_without_encoding(source: Path, target: Path, start: float) -> Path:
    """What `-ss start -c copy` makes: from the key frame before `start` on, which an edit list tells to leave out."""
    with av.open(str(source)) as old, av.open(str(target), "w") as new:
        stream = new.add_stream_from_template(old.streams.video[0])
        old.seek(int(start * av.time_base))
        for packet in old.demux(old.streams.video[0]):
            if packet.dts is not None and packet.pts is not None:
                shift = round(start / packet.time_base)
                packet.pts, packet.dts, packet.stream = packet.pts - shift, packet.dts - shift, stream
                new.mux(packet)
    return target


def beside_each_other(target: Path, sources: Sequence[Path], marks: Sequence[Disposition]) -> Path:
    """One file with the videos of several, in that order, each marked as told."""
    with ExitStack() as opened:
        old = [opened.enter_context(av.open(str(source))) for source in sources]
        new = opened.enter_context(av.open(str(target), "w"))
        streams = [new.add_stream_from_template(container.streams.video[0]) for container in old]
        for stream, mark in zip(streams, marks, strict=True):
            stream.disposition = mark
        for container, stream in zip(old, streams, strict=True):
            for packet in container.demux(video=0):
                if packet.dts is not None:
                    packet.stream = stream
                    new.mux(packet)
    return target


def with_cover(source: Path, target: Path) -> Path:
    """The video with a red cover, which stands first where the container does not mark it as one."""
    cover = target.with_suffix(".jpg")
    Image.new("RGB", (64, 48), (255, 0, 0)).save(cover)
    return beside_each_other(target, [cover, source], [Disposition.attached_pic, Disposition(0)])


def numbers(video: Tensor, step: int = 4) -> list[int]:
    """Which of `steps` these pictures are."""
    return np.rint(video.float().mean((1, 2, 3)).numpy() / step).astype(int).tolist()
