"""Actions that lie beside a video, as `name.actions.npy`: taken along when it is cut, resampled and encoded.

A file has 0/1 columns and either a row for each frame of its video, as the key logs of games and other world models
have them, or a row for each group of as many frames. A shard has a row for each latent frame: a key counts as held
there if it is held for more than half of its frames, so that a quick change from w to s is not taken for both at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor

from adastate.encoders import Codec
from adastate.media.video_error import VideoError
from datamodules.shards.safe_decode import Refused, read_actions


def actions_of_frames(path: Path, frames: int) -> Tensor:
    """Actions `[frames, A]` uint8 of each frame of a video.

    Raises:
        VideoError: no 0/1 columns, or rows that are not one for each frame or group of as many.
    """
    try:
        actions = read_actions(path.read_bytes())
    except Refused as error:
        raise VideoError(f"{path.name} {error}: write 0/1 columns w,a,s,d,i,j,k,l, a row for each frame") from error
    rows = len(actions)
    for first in (0, 1):  # frames of the first row, if it stands for one alone, as Wan's first latent does
        if rows > first and frames >= rows and (frames - first) % (rows - first) == 0:
            each = (frames - first) // (rows - first)
            return actions[[(n - first) // each + first if n >= first else 0 for n in range(frames)]]
    raise VideoError(
        f"{path.name} has {rows} rows, and the video {frames} frames: give a row for each frame, or for each group of "
        "as many"
    )


def latent_starts(frames: int, codec: Codec | None, group: int) -> list[int]:
    """The first frame of each latent frame of a clip, and the end.

    Without a codec latents are of `group` frames; of a clip that is one longer the first latent is one frame.

    Raises:
        VideoError: some frames are left over.
    """
    if codec is not None:
        ends = [codec.video_frames(n) for n in range(1, frames + 1)]
        return [0, *(end for end in ends if end <= frames)]
    alone = frames % group == 1 and group > 1
    starts = [0, *range(1 if alone else group, frames + 1, group)]
    if starts[-1] != frames:
        raise VideoError(
            f"clips of {frames} frames are not a whole number of action rows of {group} frames: change either"
        )
    return starts


def actions_of_latents(actions: Tensor, starts: Sequence[int]) -> Tensor:
    """Actions `[F, A]` uint8 of latent frames that begin at `starts`, from those of frames `[T, A]`."""
    parts = [actions[a:b].float().mean(0) > 0.5 for a, b in pairwise(starts)]
    return torch.stack(parts).to(torch.uint8)
