"""Videos as a player shows them, by one set of rules for files and for the clips of shards.

Which video: of several streams the one marked as default, else the first; never a cover or another still.
Which pictures: those of the edit list, so what a cut without encoding left before its start is not shown; no damaged
ones. How they stand: turned and mirrored as the display matrix says, with square pixels, on `BACKDROP` where they are
transparent. When: at their timestamps; where these jump, a new run of pictures begins.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import Any, NamedTuple

import av
import numpy as np
import torch
from av.container import InputContainer
from av.stream import Disposition
from torch import Tensor

from adastate.media.video import BACKDROP
from adastate.media.video_error import VideoError

GAP = 0.5
"""Seconds between two pictures beyond which they belong to different scenes: held so long, a picture is a still."""

_NO_VIDEO = Disposition.attached_pic | Disposition.timed_thumbnails | Disposition.still_image
_STILLS = ("mjpeg", "png", "bmp", "tiff", "webp", "gif")
"""Codecs of covers that a container did not mark as such."""
_FLATTEST = 1 / 16
"""Pixels flatter than this, or as much higher than wide, are a mistake in the file."""


class ShownFrame(NamedTuple):
    time: float  # seconds since the first picture; where timestamps go back it goes on
    image: av.VideoFrame
    stretch: float  # width over height of a pixel
    turn: tuple[int, int, int, int]  # a, b, c, d: right and down of the picture, in the viewer's right and down
    number: int  # among the pictures shown, damaged ones counted
    run: int  # rises where timestamps jump


class ShownVideo:
    """The video of an open container.

    Args:
        container: opened for reading.
        gap: seconds between two pictures beyond which a new run begins.

    Raises:
        VideoError: no video in it, or one in a format that cannot be decoded.
    """

    def __init__(self, container: InputContainer, gap: float = GAP) -> None:
        self.container, self.gap, self.stream = container, gap, _chosen(container)
        self.packets = self.expected = self.damaged = 0  # expected: packets whose pictures are shown
        self.jumps: list[tuple[float, float]] = []  # (time, seconds to the next picture)
        self.times: list[float] = []  # of the packets whose pictures are shown, in the order of the file
        self._end = 0.0

    def demux(self) -> Iterator[av.Packet]:
        """Its packets, which are counted; the last one is empty."""
        second = float(self.stream.time_base or 0)
        for packet in self.container.demux(self.stream):
            if packet.size:
                self.packets += 1
                self.expected += not packet.is_discard
                at = packet.dts if packet.pts is None else packet.pts
                if not packet.is_discard and at is not None:
                    self.times.append(at * second)
                    self._end = max(self._end, (at + (packet.duration or 0)) * second)
            yield packet

    def frames(self) -> Iterator[ShownFrame]:
        """Decodes it. Raises what PyAV raises, but for pictures that are damaged, which are left out."""
        stream = self.stream
        stretch = float(stream.sample_aspect_ratio or 1)
        stretch = stretch if _FLATTEST < stretch < 1 / _FLATTEST else 1.0
        usual = 1 / float(stream.guessed_rate or stream.average_rate or 25)
        veiled = _with_alpha(stream)
        number, run, damaged = -1, 0, False
        turn: tuple[int, int, int, int] | None = None
        zero = last = 0.0
        for packet in self.demux():
            try:
                images = packet.decode() if veiled is None else veiled.decode(packet)
            except av.InvalidDataError:
                self.damaged, number, damaged = self.damaged + 1, number + 1, True
                continue
            for image in images:
                assert isinstance(image, av.VideoFrame)
                number += 1
                # what a damaged picture spoils ends at the next one that builds on no other
                damaged = image.is_corrupt or (damaged and not image.key_frame)
                if damaged:
                    self.damaged += 1
                    continue
                first = number == self.damaged
                time = (0.0 if first else last + usual) if image.time is None else image.time - zero
                if first:
                    zero, time = time, 0.0
                elif not 0 <= time - last <= self.gap:
                    self.jumps.append((last, time - last))
                    run += 1
                    if time < last:
                        zero, time = zero - (last + usual - time), last + usual
                last = time
                turn = turn or _turn(image)  # of the whole video, as looking for it takes longer than a small picture
                yield ShownFrame(time, image, stretch, turn, number, run)

    def seconds(self) -> float:
        """How long its pictures are shown, without the gaps. To be asked after `demux`."""
        ordered = sorted(self.times)
        steps = [b - a for a, b in pairwise(ordered) if b - a <= self.gap]
        return sum(steps) + (sum(steps) / len(steps) if steps else 1.0) if ordered else 0.0

    def missing(self) -> str:
        """What the file promises and does not hold, in words; empty if it is whole. To be asked after `demux`."""
        stream = self.stream
        told = float((stream.duration or 0) * (stream.time_base or 0)) or (self.container.duration or 0) / av.time_base
        span = self._end - min(self.times, default=0.0)
        if stream.frames:  # an edit list may leave out some of them, but then it also says how long the rest is
            lost = self.packets < 0.98 * stream.frames - 1 and (not told or span < 0.98 * told - 0.1)
            return f"{self.packets} of {stream.frames} pictures" if lost else ""
        # a container's length may count sound that goes on after the pictures, hence the tenth and the second
        return f"{span:.1f} of {told:.1f} seconds" if self.times and span < 0.9 * told - 1 else ""

    def notes(self) -> str:
        """What was the matter with the pictures, in words; empty if nothing was. To be asked after `frames`."""
        told = []
        if self.jumps:
            at, step = self.jumps[0]
            many = f"{len(self.jumps)} times, first " if len(self.jumps) > 1 else ""
            told.append(f"its timestamps jump {many}by {step:.1f} s at {at:.1f} s: a scene ends there")
        if self.damaged:
            told.append(f"{self.damaged} damaged pictures are left out")
        return "; ".join(told)


def _chosen(container: InputContainer) -> av.VideoStream:
    streams = [s for s in container.streams.video if not s.disposition & _NO_VIDEO]
    if not streams:
        raise VideoError("has no video stream")
    streams = [s for s in streams if s.codec_context is not None]
    if not streams:
        raise VideoError("its video has a format that cannot be decoded here: convert it to h264")
    moving = [s for s in streams if s.codec_context.name not in _STILLS] or streams
    return next((s for s in moving if s.disposition & Disposition.default), moving[0])


def _with_alpha(stream: av.VideoStream) -> av.VideoCodecContext | None:
    """A decoder that hears of the transparency of a WebM; None where there is none.

    It lies beside the pictures, and FFmpeg's own decoders pass over it.
    """
    told = {key.lower(): value for key, value in stream.metadata.items()}
    name = {"vp8": "libvpx", "vp9": "libvpx-vp9"}.get(stream.codec_context.name)
    if told.get("alpha_mode") != "1" or name is None:
        return None
    try:
        found = av.CodecContext.create(name, "r")
    except (av.FFmpegError, ValueError):
        return None  # a build without libvpx shows what lies under the transparency
    assert isinstance(found, av.VideoCodecContext)
    found.extradata = stream.codec_context.extradata
    return found


def _turn(image: av.VideoFrame) -> tuple[int, int, int, int]:
    matrix: Any = image.side_data.get("DISPLAYMATRIX")
    a, b, _, c, d = np.frombuffer(matrix, np.int32)[:5].tolist() if matrix is not None else (1, 0, 0, 0, 1)
    return a, b, c, d


def upright(frame: ShownFrame) -> Tensor:
    """The picture as a viewer sees it, `[3, h, w]` uint8."""
    image = frame.image
    clear = any(part.is_alpha for part in image.format.components) or image.format.name == "pal8"
    width = None if frame.stretch == 1 else max(1, round(image.width * frame.stretch))
    array = image.to_ndarray(format="rgba" if clear else "rgb24", width=width)
    if clear:
        cover = array[..., 3:].astype(np.uint32)
        array = ((array[..., :3] * cover + BACKDROP * (255 - cover) + 127) // 255).astype(np.uint8)
    a, b, c, d = frame.turn
    if abs(b) > abs(a):  # a quarter turn
        array, a, d = array.swapaxes(0, 1), c, b
    array = array[:: -1 if d < 0 else 1, :: -1 if a < 0 else 1]
    return torch.from_numpy(array.copy()).permute(2, 0, 1)
