"""Pictures as one continuous fragmented mp4, available piece by piece as it is encoded."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import av
import numpy as np
from torch import Tensor

FLAGS = "frag_every_frame+empty_moov+default_base_moof"


class _Pieces:
    """A write-only file whose bytes are taken out as they are written."""

    def __init__(self) -> None:
        self._data = bytearray()

    def write(self, data: bytes) -> int:
        self._data += data
        return len(data)

    def take(self) -> bytes:
        data = bytes(self._data)
        self._data.clear()
        return data


class FragmentedVideo:
    """H.264 in yuv420p, one fragment per picture; no fragment waits for a later picture.

    Args:
        fps: pictures per second.
        height, width: of the pictures; odd sides are padded by one pixel, as H.264 needs even ones.
    """

    def __init__(self, fps: float, height: int, width: int) -> None:
        self._pieces = _Pieces()
        options = {"movflags": FLAGS, "flush_packets": "1"}
        self._container: Any = av.open(self._pieces, "w", format="mp4", options=options)
        self._stream = self._container.add_stream("libx264", rate=Fraction(fps).limit_denominator(1000))
        self._stream.height, self._stream.width = height + height % 2, width + width % 2
        self._stream.pix_fmt = "yuv420p"
        self._stream.codec_context.gop_size = max(1, round(fps))
        self._stream.options = {"preset": "ultrafast", "tune": "zerolatency", "bf": "0", "threads": "1"}

    def append(self, pictures: Tensor) -> bytes:
        """The bytes of uint8 pictures `[T, h, w, 3]`; the first call includes the file header."""
        for picture in pictures.numpy():
            pad = [(0, side % 2) for side in picture.shape[:2]]
            even = np.ascontiguousarray(np.pad(picture, (*pad, (0, 0)), mode="edge"))
            self._container.mux(self._stream.encode(av.VideoFrame.from_ndarray(even, format="rgb24")))
        return self._pieces.take()

    def close(self) -> bytes:
        """The trailing bytes of the file."""
        self._container.mux(self._stream.encode(None))
        self._container.close()
        return self._pieces.take()
