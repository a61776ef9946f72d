"""Which files are pictures; torch is not needed to tell."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from PIL import Image

PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".avif")

KINDS = ("PNG", "JPEG", "MPO", "WEBP", "BMP", "DIB", "GIF", "TIFF", "AVIF")
"""What is opened, whatever the name: of other kinds some are programs, which PIL has another program run (EPS)."""


def opened_picture(path: Path) -> Image.Image:
    """A file as PIL opens it; its pixels are not read yet."""
    Image.init()  # which kinds there are PIL knows from here on
    return Image.open(path, formats=[kind for kind in KINDS if kind in Image.OPEN])


@contextmanager
def unlimited() -> Iterator[None]:
    """Within it PIL opens pictures of any size."""
    most, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
    try:
        yield
    finally:
        Image.MAX_IMAGE_PIXELS = most


def pictures_in(folder: Path) -> list[Path]:
    """Its pictures, by name, where 2 stands before 10."""

    def key(path: Path) -> list[tuple[int, str]]:  # of texts and, in between, numbers
        return [(int(part), "") if n % 2 else (-1, part) for n, part in enumerate(re.split(r"(\d+)", path.name))]

    return sorted((p for p in folder.iterdir() if p.suffix.lower() in PICTURES and p.name[0] != "."), key=key)
