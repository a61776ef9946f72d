"""Pictures as a viewer shows them: upright, in 8 bits, on `BACKDROP` where they are transparent."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from adastate.media.picture_kinds import opened_picture, unlimited
from adastate.media.video import BACKDROP, fit

MOST_PIXELS = 2**28
"""Of a picture, before any of it is decoded. PIL by itself refuses those of today's telephones, 200 megapixels."""

BAND = 2**24
"""Pixels of it that are converted and averaged at a time."""

REDUCED_FROM = 2**26
"""Pixels from which on a picture is averaged to a whole part of its size before it is scaled."""


def read_picture(path: Path | Image.Image, height: int, width: int) -> Tensor:
    """`[3, height, width]` in [-1, 1]: scaled to cover that size, and what sticks out cut off evenly.

    Of an animation it is the first picture.

    Args:
        path: of a file, or what PIL has opened or made.

    Raises:
        ValueError: no picture there, a damaged one, or one too large.
    """
    opened = isinstance(path, Image.Image)
    if not isinstance(path, Image.Image | Path):
        raise ValueError(
            f"a picture is the path of a file, or what PIL has opened or made, and not {type(path).__name__}"
        )
    if isinstance(path, Path) and not path.is_file():
        raise ValueError(f"there is no picture {path}")
    try:
        with unlimited(), nullcontext(path) if isinstance(path, Image.Image) else opened_picture(path) as image:
            shown = _reduced(image.copy() if opened else image, 2 * max(height, width))
    except (OSError, SyntaxError, ValueError) as error:  # PIL has all three for damaged files
        name = "the picture" if opened else path
        raise ValueError(
            f"{name} cannot be read as a picture ({' '.join(str(error).split())}): save it as a PNG or JPEG of at most "
            f"{MOST_PIXELS // 10**6} megapixels"
        ) from error
    picture = torch.from_numpy(np.array(shown)).permute(2, 0, 1)
    return fit(picture, (height, width)) / 127.5 - 1


def _reduced(image: Image.Image, enough: int) -> Image.Image:
    """Upright and in 8 bits; a very large one at a whole part of its size, with sides of `enough` pixels at least."""
    large = image.width * image.height > REDUCED_FROM
    if image.width * image.height > MOST_PIXELS:
        raise ValueError(f"it has {image.width} x {image.height} pixels")
    if large:
        image.draft(None, (enough, enough))  # of other kinds than JPEG it does nothing
    ImageOps.exif_transpose(image, in_place=True)
    times = min(image.size) // enough if large else 1
    if times < 2:
        return _in_8_bits(image)
    width, height = image.size
    shown = Image.new("RGB", (-(-width // times), -(-height // times)))
    rows = times * max(1, BAND // (width * times))
    for top in range(0, height, rows):  # in bands, as each step makes a copy
        band = _in_8_bits(image.crop((0, top, width, min(top + rows, height))))
        shown.paste(band.reduce(times), (0, top // times))
    return shown


def _in_8_bits(image: Image.Image) -> Image.Image:
    if image.mode == "F":
        raise ValueError("its pixels are decimal numbers, which have no fixed white")
    if image.mode == "I" or image.mode.startswith("I;16"):  # PIL would cut off at 255
        image = Image.fromarray((np.asarray(image).astype(np.float64) / 257).round().clip(0, 255).astype(np.uint8))
    if not image.has_transparency_data:
        return image.convert("RGB")
    clear = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", clear.size, (BACKDROP,) * 3), clear).convert("RGB")
