"""Real clips of a run's shards, passed through its codec: the reference for rollouts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from adastate.encoders import Codec
from adastate.media.video import to_float
from datamodules.shards.decode import decode
from datamodules.shards.index import read_shard
from datamodules.shards.safe_decode import read_words


@dataclass(frozen=True)
class Footage:
    """Real clips after encoding and decoding."""

    video: Tensor  # [N, T, 3, h, w]
    captions: list[str]


def choose(captions: Sequence[str], prompts: Sequence[str]) -> list[int]:
    """One clip per prompt, spread evenly over the clips that have it as caption, or over all if none has."""
    chosen: list[int] = []
    turn: Counter[str] = Counter()
    for prompt in prompts:
        mine = [i for i, caption in enumerate(captions) if caption == prompt] or list(range(len(captions)))
        chosen.append(mine[turn[prompt] * len(mine) // prompts.count(prompt)])
        turn[prompt] += 1
    return chosen


def read_footage(
    shards: Path, prompts: Sequence[str], pictures: int, codec: Codec, device: torch.device
) -> Footage | None:
    """One real clip per prompt, passed through the codec one at a time; None if the folder contains no video."""
    found = [sample for path in sorted(shards.glob("*.tar")) for sample in read_shard(path) if "mp4" in sample.members]
    if not found:
        return None
    captions = [" ".join(read_words(sample.read("txt")).split()) for sample in found]
    chosen = choose(captions, prompts)
    clips = (to_float(decode(found[i], "mp4", pictures).content)[None] for i in chosen)
    return Footage(torch.cat([through_codec(codec, clip, device) for clip in clips]), [captions[i] for i in chosen])


def through_codec(codec: Codec, video: Tensor, device: torch.device) -> Tensor:
    """Video `[B, T, 3, h, w]` encoded and decoded by the codec, which is on `device`; returned on the CPU."""
    return codec.decode(codec.encode(video.to(device))).cpu()
