"""Actions beside a video go with its clips: cut, resampled and reduced to latent frames as its pictures are."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from adastate.media.video_error import VideoError
from datamodules.clips import ShardData
from datamodules.shards.decode import decode
from datamodules.shards.index import find_shards, read_shard
from datamodules.shards.shard_error import ShardError
from datamodules.tools.make_shards import ShardReport, make_shards
from datamodules.tools.video_actions import actions_of_frames, actions_of_latents, latent_starts
from tests.support.sample_videos import StubCodec, film

W, S = [1, 0, 0, 0, 0, 0, 0, 0], [0, 0, 1, 0, 0, 0, 0, 0]


def write(path: Path, rows: list[list[int]], dtype: str = "uint8") -> Path:
    np.save(path, np.array(rows, dtype=dtype))
    return path


def cut(videos: Path, out: Path, **settings: object) -> ShardReport:
    wanted = {"size": (16, 16), "pictures": 6, "fps": 10} | settings
    return make_shards(videos, out, **wanted)  # type: ignore[arg-type]


def steered(out: Path) -> list[list[list[int]]]:
    rows = [decode(sample, "mp4").actions for path in find_shards(str(out)) for sample in read_shard(path)]
    assert all(row is not None for row in rows)
    return [row.tolist() for row in rows if row is not None]


def test_rows_are_of_frames_or_of_groups_of_frames(tmp_path: Path) -> None:
    path = tmp_path / "a.actions.npy"
    wanted = [W] * 4 + [S] * 4
    for dtype in ("uint8", "bool", "float32", "int64"):
        assert actions_of_frames(write(path, wanted, dtype), 8).tolist() == wanted
    assert actions_of_frames(write(path, [W, S]), 8).tolist() == wanted, "groups of four"
    assert actions_of_frames(write(path, [W, S, W]), 9).tolist() == [W] * 3 + [S] * 3 + [W] * 3
    assert actions_of_frames(write(path, [S, W, S, W]), 13).tolist() == [S] + [W] * 4 + [S] * 4 + [W] * 4, "Wan's"
    with pytest.raises(VideoError, match=r"a\.actions\.npy has 3 rows, and the video 8 frames: give a row for each"):
        actions_of_frames(write(path, [W] * 3), 8)
    with pytest.raises(VideoError, match="neither 0 nor 1: write 0/1 columns w,a,s,d"):
        actions_of_frames(write(path, [[2] * 8] * 8), 8)


def test_a_key_is_held_in_a_latent_frame_if_it_is_held_for_more_than_half_of_it() -> None:
    frames = torch.tensor([W, W, S, S, S, W, W, S, W])
    assert actions_of_latents(frames, [0, 3, 6, 9]).tolist() == [W, S, W]
    assert actions_of_latents(frames, [0, 1, 5, 9]).tolist()[1:] == [S, W]
    assert actions_of_latents(torch.tensor([W, S]), [0, 2]).tolist() == [[0] * 8], "half is not more than half"


def test_latent_frames_begin_where_the_codec_says() -> None:
    assert latent_starts(9, StubCodec(), 4) == [0, 3, 6, 9]
    assert latent_starts(6, None, 3) == [0, 3, 6]
    assert latent_starts(9, None, 4) == [0, 1, 5, 9]
    with pytest.raises(VideoError, match="not a whole number of action rows of 4 frames"):
        latent_starts(10, None, 4)


@pytest.mark.parametrize("fps", [10, 5])
def test_actions_are_cut_and_resampled_with_their_clip(tmp_path: Path, fps: int) -> None:
    """Film of 10 frames a second with a cut after 20, whose keys change with every group of three shown frames."""
    film(tmp_path / "videos" / "a.mp4", 20, 20)
    each = 10 // fps
    rows = [W if (n % 20) // each // 3 % 2 == 0 else S for n in range(40)]
    write(tmp_path / "videos" / "a.actions.npy", rows)
    cut(tmp_path / "videos", tmp_path / "out", fps=fps)
    found = steered(tmp_path / "out")
    assert len(found) == (6 if fps == 10 else 2) and all(clip == [W, S] for clip in found)
    batch = next(iter(ShardData(str(tmp_path / "out"), batch=2, want="video").batches()))
    assert batch.actions is not None and batch.actions.tolist() == [[W, S]] * 2


def test_with_latents_a_row_is_a_latent_frame_of_the_codec(tmp_path: Path) -> None:
    film(tmp_path / "videos" / "a.mp4", 12)
    write(tmp_path / "videos" / "a.actions.npy", [W] * 6 + [S] * 6)
    cut(tmp_path / "videos", tmp_path / "out", pictures=12, latents=StubCodec(), action_frames=4)
    batch = next(iter(ShardData(str(tmp_path / "out"), batch=1).batches()))
    assert batch.actions is not None and batch.actions.tolist() == [[W, W, S, S]]


def test_other_actions_make_the_clips_anew_and_bad_ones_skip_the_video(tmp_path: Path) -> None:
    film(tmp_path / "videos" / "a.mp4", 12)
    path = write(tmp_path / "videos" / "a.actions.npy", [W] * 12)
    assert cut(tmp_path / "videos", tmp_path / "out").written == 2
    assert cut(tmp_path / "videos", tmp_path / "out").written == 0
    write(path, [S] * 12)
    assert cut(tmp_path / "videos", tmp_path / "out").written == 2
    assert steered(tmp_path / "out") == [[S, S]] * 2
    path.write_bytes(b"no array")
    report = cut(tmp_path / "videos", tmp_path / "out")
    assert report.clips == 0 and "a.actions.npy it is not a .npy file: write 0/1 columns" in report.skipped["a.mp4"]


def test_all_videos_of_a_folder_have_actions_or_none(tmp_path: Path) -> None:
    for name in "abc":
        film(tmp_path / "videos" / f"{name}.mp4", 6)
    write(tmp_path / "videos" / "b.actions.npy", [W] * 6)
    with pytest.raises(ShardError, match=r"2 of 3 videos have no \.actions\.npy beside them, a\.mp4 the first: give"):
        cut(tmp_path / "videos", tmp_path / "out")
