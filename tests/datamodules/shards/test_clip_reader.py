"""Clips by number: latents, ends of trajectories, or video that is encoded."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from datamodules.shards.clip_reader import Clips
from datamodules.shards.shard_error import ShardError
from datamodules.shards.shard_writer import ShardWriter, npy
from datamodules.tools.world_shards import write_world
from datamodules.trajectories import TrajectoryWriter
from datamodules.worlds.flyover import flight


def encode(video: Tensor) -> Tensor:
    """Every second picture's corner."""
    return video[:, ::2, :, :4, :4]


def test_latents_and_ends_of_trajectories(tmp_path: Path) -> None:
    with ShardWriter(tmp_path / "latents", 4) as writer:
        for i in range(3):
            writer.add(f"{i}", {"latent.npy": npy(torch.full((5, 2, 2, 2), float(i))), "txt": f"p{i}".encode()})
    clips = Clips(str(tmp_path / "latents"), 4, 8, encode)
    stacked, prompts = clips.stack([2, 4])
    assert stacked.shape == (2, 4, 2, 2, 2) and stacked[:, 0, 0, 0, 0].tolist() == [2.0, 1.0], "numbers go round"
    assert prompts == ["p2", "p1"]
    entries = torch.arange(3.0).view(3, 1, 1, 1, 1).expand(3, 4, 2, 2, 2)
    for name, levels, end in (("own", [1000, 500, 0], 2.0), ("past", [1000, 0, 0], 1.0)):
        with TrajectoryWriter(tmp_path / name) as paths:
            paths.add("a", entries, levels, "p")
        assert float(Clips(str(tmp_path / name), 4, 8, encode)[0][0].mean()) == end


def test_video_is_encoded(tmp_path: Path) -> None:
    write_world(tmp_path, 2, 9)
    clip, prompt = Clips(str(tmp_path), 4, 8, encode)[0]
    assert clip.shape == (4, 3, 4, 4) and -1 <= float(clip.min()) <= float(clip.max()) <= 1
    assert prompt == flight(0, 0).caption
    with pytest.raises(ShardError, match="has 9 frames of the 10 needed"):
        Clips(str(tmp_path), 5, 10, encode)[0]


def test_shards_without_clips_are_told(tmp_path: Path) -> None:
    with ShardWriter(tmp_path, 4) as writer:
        writer.add("a", {"txt": b"p", "json": b"{}"})
    with pytest.raises(ShardError, match="has no clips, only json, txt: give shards of latents or video"):
        Clips(str(tmp_path), 4, 8, encode)
