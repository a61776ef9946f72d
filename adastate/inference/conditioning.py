"""What stands before a stream: a picture, or latents of an earlier one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from adastate.encoders import Codec
from adastate.inference.given_files import check_latents, check_pictures
from adastate.media.picture_file import read_picture
from adastate.media.picture_kinds import pictures_in
from adastate.weights.files import open_file


@dataclass(frozen=True)
class Prefix:
    """Clean latent frames before every stream.

    Attributes:
        frames: how many.
        of: latents `[1, frames, C, H, W]` for the prompt of a row.
    """

    frames: int
    of: Callable[[int], Tensor]

    def batch(self, rows: Sequence[int]) -> Tensor:
        """`[B, frames, C, H, W]` for the prompts of these rows."""
        return torch.cat([self.of(row) for row in rows])


def picture_prefix(
    path: str | Path | Image.Image, codec: Codec, grid: tuple[int, int], prompts: int, device: torch.device
) -> Prefix:
    """The first frame from a picture for all prompts, or from a folder with one for each, in order of their names."""
    path = Path(path) if isinstance(path, str) else path
    each = isinstance(path, Path) and path.is_dir()
    files = pictures_in(path) if isinstance(path, Path) and path.is_dir() else [path]
    if isinstance(path, Path):
        check_pictures(path, prompts)
    size = (grid[0] * codec.scale, grid[1] * codec.scale)

    def of(row: int) -> Tensor:
        picture = read_picture(files[row if each else 0], *size).to(device)
        # a codec that makes one latent of several pictures gets a still of them
        return codec.encode(picture.expand(1, codec.video_frames(1), *picture.shape))

    if not each:
        once = of(0)
        return Prefix(1, lambda row: once)
    return Prefix(1, of)


def latents(path: Path, shape: tuple[int, int, int], prompts: int, device: torch.device) -> Prefix:
    """Latent frames from a file, `[F, C, H, W]` for all prompts or `[B, F, C, H, W]` with a row for each."""
    found = _read_latents(path)
    rows = found[None] if found.ndim == 4 else found
    have, want = " x ".join(map(str, found.shape[-3:])), " x ".join(map(str, shape))
    if found.ndim not in (4, 5) or rows.numel() == 0:
        raise ValueError(
            f"{path} holds latents of shape {list(found.shape)}: [F, C, H, W] or [B, F, C, H, W] is needed"
        )
    if rows.shape[2:] != shape:
        raise ValueError(f"{path} holds latent frames of {have} (channels, height, width), the network makes {want}")
    if len(rows) not in (1, prompts):
        raise ValueError(f"{path} holds latents for {len(rows)} streams, and there are {prompts} prompts")
    if not rows.isfinite().all():
        raise ValueError(f"{path} holds latents that are not finite")
    rows = rows.float().to(device)
    return Prefix(rows.shape[1], lambda row: rows[row : row + 1] if len(rows) > 1 else rows)


def _read_latents(path: Path) -> Tensor:
    check_latents(path)
    if path.suffix == ".npy":
        try:
            array = np.lib.format.open_memmap(path, mode="r")  # holds its header against the bytes that are there
            return torch.from_numpy(np.array(array, np.float32))
        except (ValueError, OverflowError, OSError) as error:
            raise ValueError(f"{path} is not a NumPy file of numbers ({' '.join(str(error).split())})") from error
    entries, _ = open_file(path)
    entry = entries.get("latents", entries.get(""))  # a .pth may hold the bare tensor
    if entry is None:
        raise ValueError(f"{path} has no tensor 'latents'; it has {', '.join(sorted(entries)[:5]) or 'none'}")
    return entry.read()
