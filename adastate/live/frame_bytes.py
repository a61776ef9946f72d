"""Encodes pictures for the wire: raw bytes for tiny ones, else image files written by Pillow."""

from __future__ import annotations

import io
from typing import Any

from PIL import Image
from torch import Tensor

TINY = 64 * 64
"""Pixels up to which "auto" sends raw bytes: a file would hardly be smaller, and encoding takes longer."""

OPTIONS: dict[str, dict[str, Any]] = {"png": {"compress_level": 1}, "webp": {"method": 0}, "jpeg": {}}


def encoded_pictures(pictures: Tensor | None, encoding: str, quality: int) -> tuple[dict[str, Any] | None, list[bytes]]:
    """Message fields that describe uint8 pictures `[T, h, w, 3]`, and their bytes; (None, []) without pictures.

    Args:
        encoding: auto, raw, png, webp or jpeg.
        quality: of webp and jpeg, up to 100.
    """
    if pictures is None:
        return None, []
    height, width = pictures.shape[1:3]
    if encoding == "auto":
        encoding = "raw" if height * width <= TINY else "webp"
    arrays = pictures.contiguous().numpy()
    if encoding == "raw":
        parts = [array.tobytes() for array in arrays]
    else:
        options = OPTIONS[encoding] | ({} if encoding == "png" else {"quality": quality})
        parts = []
        for array in arrays:
            out = io.BytesIO()
            Image.fromarray(array).save(out, encoding, **options)
            parts.append(out.getvalue())
    return {"encoding": encoding, "width": width, "height": height, "lengths": [len(p) for p in parts]}, parts
