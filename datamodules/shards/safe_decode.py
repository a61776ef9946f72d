"""Decodes untrusted bytes: every count that a file claims is checked before it is used.

A shard is data. Nothing here unpickles, opens another file, or allocates memory by a number in a header before that
number has been compared with the bytes that are there.
"""

from __future__ import annotations

import ast
import io
import json
import struct
from collections.abc import Iterator
from typing import Any

import av
import numpy as np
import torch
from torch import Tensor

from adastate.media.video_reader import GAP, ShownVideo, VideoError, upright
from adastate.runtime.text_files import decode_text
from datamodules.shards.shard_error import ShardError

MAX_WORDS = 1 << 20
"""Maximum bytes of a caption or of facts."""

MAX_CONTENT = 2 << 30
"""Maximum bytes of a video or of latents, stored or decoded."""

MAX_VIDEO = 1 << 30
"""Maximum bytes of a decoded video, twice a clip of 81 frames at 1080 x 1920. Checked against the file's claim."""

MAX_PICTURES = 100_000
MAX_PIXELS = 8192 * 8192
MAX_DEPTH = 16
"""Maximum nesting of facts: workers send them as pickles, which recurse."""

DTYPES = ("float16", "float32", "float64")
_COLUMNS = ("uint8", "bool", "int8", "int32", "int64", *DTYPES)
_MAX_NPY_HEADER = 4096
_BOXES = {b"moov", b"trak", b"mdia", b"minf", b"stbl", b"edts", b"mvex", b"moof", b"traf"}


class ChangedError(ShardError):
    """The file has changed since it was checked."""


class Refused(ValueError):
    """Invalid bytes; counted by `cause`."""

    def __init__(self, cause: str, detail: str) -> None:
        super().__init__(detail)
        self.cause = cause


def read_npy(data: bytes, dtypes: tuple[str, ...] = DTYPES) -> Tensor:
    """Reads a .npy file of numbers of one of these types, as a view of its bytes.

    Raises:
        Refused: `wrong dtype`, or `unreadable`: not a .npy file, or its header and its bytes disagree.
    """
    if data[:6] != b"\x93NUMPY" or len(data) < 12 or data[6] not in (1, 2, 3):
        raise Refused("unreadable", "it is not a .npy file")
    start, length = (
        (10, struct.unpack_from("<H", data, 8)[0]) if data[6] == 1 else (12, struct.unpack_from("<I", data, 8)[0])
    )
    if length > _MAX_NPY_HEADER or start + length > len(data):
        raise Refused("unreadable", f"its header claims {length} bytes, at most {_MAX_NPY_HEADER}")
    try:
        header = ast.literal_eval(data[start : start + length].decode("latin1").strip())
        dtype, shape, fortran = header["descr"], header["shape"], header["fortran_order"]
        if not isinstance(dtype, str):
            raise Refused("wrong dtype", "it holds records: store an array of numbers")
        kind = np.dtype(dtype)
    except Refused:
        raise
    except Exception as error:  # a hostile literal may raise anything in the parser
        raise Refused("unreadable", f"its header cannot be read ({type(error).__name__})") from error
    if kind.hasobject:
        raise Refused("unreadable", "Object arrays cannot be loaded: they are pickles")
    if kind.name not in dtypes:
        raise Refused("wrong dtype", f"its numbers are {kind.name}, not one of {', '.join(dtypes)}")
    if not isinstance(shape, tuple) or len(shape) > 8 or not all(type(n) is int and 0 < n < 2**40 for n in shape):
        raise Refused("unreadable", "its header gives no shape, or an empty one")
    count = int(np.prod([*shape], dtype=object)) if shape else 1
    if count * kind.itemsize != len(data) - start - length:
        has = len(data) - start - length
        raise Refused("unreadable", f"its header claims {count * kind.itemsize} bytes of numbers, but it has {has}")
    kind = np.dtype("uint8") if kind.name == "bool" else kind  # a byte other than 0 and 1 is not a valid bool
    array = np.frombuffer(bytearray(data), kind, count, start + length).reshape(shape, order="F" if fortran else "C")
    return torch.from_numpy(array if kind.isnative else array.astype(kind.newbyteorder("=")))


def read_actions(data: bytes) -> Tensor:
    """Reads a .npy file of 0/1 columns, one row per latent frame (or per frame, in a user's own file): uint8 `[F, A]`.

    Raises:
        Refused: as `read_npy`, or `bad actions`: not two axes, or values other than 0 and 1.
    """
    columns = read_npy(data, _COLUMNS)
    if columns.ndim != 2:
        raise Refused(
            "bad actions", f"has actions of shape {[*columns.shape]}: they need one row per frame, one column per key"
        )
    if not bool(((columns == 0) | (columns == 1)).all()):
        raise Refused("bad actions", "has actions that are neither 0 nor 1")
    return columns.to(torch.uint8)


def all_finite(x: Tensor) -> bool:
    """Whether no number is NaN or infinite; the sum shows this at a third of the cost, unless it overflows itself."""
    return bool(x.sum(dtype=torch.float32).isfinite()) or bool(x.isfinite().all())


def read_words(data: bytes) -> str:
    """Reads a caption, in any encoding that `read_text` supports; Refused as `unreadable` if it is not text."""
    try:
        return decode_text(data).strip()
    except ValueError as error:
        raise Refused("unreadable", f"its .txt {error}") from error


def read_json(data: bytes) -> dict[str, Any]:
    """Reads a JSON object nested at most 16 deep; Refused as `unreadable` otherwise."""
    try:
        facts = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise Refused("unreadable", f"has an invalid .json ({str(error)[:80]})") from error
    if not isinstance(facts, dict):
        raise Refused("unreadable", "has a .json that is not an object")
    level: list[Any] = [facts]
    for _ in range(MAX_DEPTH):
        level = [x for v in level for x in (v.values() if isinstance(v, dict) else v) if isinstance(x, (dict, list))]
        if not level:
            return facts
    raise Refused("unreadable", f"has a .json nested deeper than {MAX_DEPTH}")


def read_mp4(data: bytes, pixels: int = MAX_PIXELS) -> Tensor:
    """Decodes an mp4 in memory to `[T, 3, h, w]` uint8.

    Args:
        pixels: maximum per picture; larger ones are refused before any is decoded.

    Raises:
        Refused: `too large` by its claims or its content, `unreadable` if it is not a complete mp4 video.
    """
    check_mp4(data, pixels)
    try:
        # The format is fixed, not guessed: bytes that look like a playlist must not make FFmpeg open other files.
        with av.open(io.BytesIO(data), "r", format="mp4") as container:
            shown = ShownVideo(container)
            shown.gap = max(GAP, 4 / float(shown.stream.guessed_rate or 25))  # clips with a low frame rate are valid
            shown.stream.codec_context.thread_count = 1  # starting threads takes longer than decoding a short clip
            shown.stream.codec_context.options = {"max_pixels": str(pixels + 64 * 1024)}
            pictures: list[Tensor] = []
            _check_claim(1, shown.stream.width, shown.stream.height, pixels)
            for frame in shown.frames():
                _check_claim(len(pictures) + 1, round(frame.image.width * frame.stretch), frame.image.height, pixels)
                pictures.append(upright(frame))
                if pictures[-1].shape != pictures[0].shape:
                    raise Refused("unreadable", "its pictures change size")
            missing = shown.missing()
    except VideoError as error:
        raise Refused("unreadable", f"it {error}") from error
    except (av.FFmpegError, OSError, MemoryError) as error:
        raise Refused("unreadable", f"not a readable mp4 ({getattr(error, 'strerror', None) or error})") from error
    if notes := shown.notes():
        raise Refused("unreadable", notes)
    if missing or len(pictures) < max(1, shown.expected):
        raise Refused("unreadable", f"truncated, {missing or f'{len(pictures)} of {shown.expected} pictures'}")
    video = torch.empty((len(pictures), *pictures[0].shape), dtype=torch.uint8)
    for n in range(len(pictures)):  # each is freed when it is copied, to avoid holding both
        video[n], pictures[n] = pictures[n], pictures[0][:0]
    return video


def check_mp4(data: bytes, pixels: int = MAX_PIXELS) -> None:
    """Reads the tables of an mp4 from whose values FFmpeg allocates memory, and refuses absurd values."""
    view = memoryview(data)
    pictures, sides = 0, [(1, 1)]
    for kind, box in _boxes(view, 0):
        if kind == b"cmov":
            raise Refused("unreadable", "it has a compressed header")
        if kind == b"stsz" and len(box) >= 12:
            pictures = max(pictures, _u32(box, 8))
        elif kind == b"trun" and len(box) >= 8:
            pictures = max(pictures, _u32(box, 4))
        elif kind in (b"stts", b"ctts") and len(box) >= 8:
            counts = np.frombuffer(box[8 : 8 + (len(box) - 8) // 8 * 8], ">u4")[::2]
            pictures = max(pictures, int(counts.sum(dtype=np.uint64)))
        elif kind == b"stsd" and len(box) >= 52 and _u32(box, 8) >= 86:  # a sample entry of the length of video entries
            sides.append(struct.unpack_from(">HH", box, 40))
        elif kind == b"tkhd" and len(box) >= 84:
            sides.append((_u32(box, len(box) - 8) >> 16, _u32(box, len(box) - 4) >> 16))
    if pictures > min(MAX_PICTURES, len(data)):
        raise Refused("too large", f"it claims {pictures} pictures in {len(data)} bytes")
    for width, height in sides:
        _check_claim(max(1, pictures), width, height, pixels)


def _check_claim(pictures: int, width: int, height: int, pixels: int) -> None:
    if width * height > pixels or pictures * width * height * 3 > MAX_VIDEO or pictures > MAX_PICTURES:
        raise Refused("too large", f"it claims {pictures} pictures of {height} x {width}, more than the limit")


def _boxes(view: memoryview, depth: int) -> Iterator[tuple[bytes, memoryview]]:
    at, seen = 0, 0
    while at + 8 <= len(view):
        size, kind, head = _u32(view, at), bytes(view[at + 4 : at + 8]), 8
        if size == 1 and at + 16 <= len(view):
            size, head = struct.unpack_from(">Q", view, at + 8)[0], 16
        size = len(view) - at if size == 0 else size
        if size < head or at + size > len(view):
            raise Refused("unreadable", f"truncated, a box of {size} bytes in {len(view) - at}")
        box = view[at + head : at + size]
        yield kind, box
        if kind in _BOXES:
            if depth > 8:
                raise Refused("unreadable", "its boxes are nested too deep")
            yield from _boxes(box, depth + 1)
        at, seen = at + size, seen + 1
        if seen > 100_000:
            raise Refused("unreadable", "it has too many boxes")


def _u32(view: memoryview, at: int) -> int:
    return int(struct.unpack_from(">I", view, at)[0])
