"""Shards are data, not programs: hostile files are refused with a sentence, skipped and counted in training."""

from __future__ import annotations

import io
import json
import re
import warnings
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch

from adastate.media.video_reader import upright
from datamodules.clips import ShardData
from datamodules.shards import safe_decode
from datamodules.shards.index import read_shard
from datamodules.shards.safe_decode import all_finite, read_json, read_mp4, read_npy
from datamodules.shards.shard_error import ShardError
from datamodules.tools.footage import encode_clip
from tests.support.hostile_shards import ARRAYS, TARS, VIDEOS, WORDS, latents, sample, tar, video
from tests.support.sample_videos import frames

CASES = (
    [pytest.param(sample(5, data=data), says, "latents", id=name) for name, (data, says) in ARRAYS.items()]
    + [pytest.param(sample(5, "mp4", data), says, "video", id=name) for name, (data, says) in VIDEOS.items()]
    + [pytest.param(data, says, "latents", id=name) for name, (data, says) in TARS.items()]
    + [pytest.param(sample(5, **members), says, "latents", id=name) for name, (members, says) in WORDS.items()]
)


def good(i: int, want: str) -> bytes:
    return sample(i) if want == "latents" else sample(i, "mp4", video())


@pytest.mark.parametrize(("hostile", "says", "want"), CASES)
@pytest.mark.filterwarnings("ignore:skipping")
def test_a_hostile_file_is_skipped_and_told(tmp_path: Path, hostile: bytes, says: str, want: str) -> None:
    """In a shard of its own, between two good samples; the rest of the set goes on."""
    (tmp_path / "a.tar").write_bytes(tar(good(0, want), hostile, good(1, want)))
    (tmp_path / "b.tar").write_bytes(tar(*(good(i, want) for i in (2, 3, 4, 6))))
    data = ShardData(str(tmp_path), batch=2, want=want, max_skipped_share=0.6)  # type: ignore[arg-type]
    prompts = {prompt for batch in islice(iter(data.batches()), 8) for prompt in batch.prompts}
    assert {f"clip {i}" for i in (2, 3, 4, 6)} <= prompts <= {f"clip {i}" for i in range(7) if i != 5}
    assert data.rows is not None and 1 <= sum(data.skipped.values()) <= 3
    told = " ".join(skip.detail for skip in data.rows.ledger.skips())
    assert re.search(says, told), told
    with warnings.catch_warnings(), pytest.raises(ShardError, match=f"cannot be used.*({says})"):
        warnings.simplefilter("ignore")
        list(islice(iter(ShardData(str(tmp_path), batch=2, want=want, max_skipped_share=0).batches()), 8))  # type: ignore[arg-type]


def test_there_are_forty_of_them() -> None:
    assert len(CASES) >= 40


@pytest.mark.parametrize("name", TARS)
def test_no_hostile_tar_passes_for_a_whole_one(tmp_path: Path, name: str) -> None:
    path = tmp_path / "a.tar"
    path.write_bytes(tar(sample(0), TARS[name][0]))
    with pytest.raises(ShardError, match="is not a whole tar file"):
        read_shard(path)


def test_what_is_good_is_read_as_numpy_and_our_decoder_read_it() -> None:
    for dtype in (">f4", "<f2", "<f8"):
        for order in ("C", "F"):
            array = np.asarray(np.random.default_rng(0).normal(size=(3, 2, 4)).astype(dtype), order=order)  # type: ignore[call-overload]
            out = io.BytesIO()
            np.save(out, array)
            assert np.array_equal(read_npy(out.getvalue()).numpy(), array)
    assert torch.equal(read_mp4(video(7)), frames(video(7)))
    assert read_json(json.dumps({"a": [1, {"b": None}]}).encode()) == {"a": [1, {"b": None}]}
    assert read_npy(latents(3)).unique().tolist() == [3.0]


def test_every_number_is_looked_at() -> None:
    x = torch.full((5, 7), 6e4).half()
    assert all_finite(x) and all_finite(torch.full((4,), 3e38))
    for bad in (float("nan"), float("inf"), -float("inf")):
        y = x.clone()
        y[3, 2] = bad
        assert not all_finite(y)
    assert not all_finite(torch.tensor([float("inf"), -float("inf")]))


@pytest.mark.filterwarnings("ignore:skipping")
def test_what_a_video_claims_is_looked_at_before_any_is_decoded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    large = encode_clip(torch.zeros(5, 3, 1024, 768, dtype=torch.uint8), 8)
    assert len(large) < 10_000
    decoded: list[int] = []
    monkeypatch.setattr(safe_decode, "upright", lambda frame: decoded.append(frame.image.width) or upright(frame))
    with pytest.raises(safe_decode.Refused, match="5 pictures of 1024 x 768, more than the limit"):
        safe_decode.read_mp4(large, pixels=16 * 16)
    (tmp_path / "a.tar").write_bytes(tar(*(good(i, "video") for i in range(7)), sample(9, "mp4", large)))
    data = ShardData(str(tmp_path), batch=2, want="video", max_skipped_share=0.5)
    assert not {"clip 9"} & {prompt for batch in islice(iter(data.batches()), 4) for prompt in batch.prompts}
    assert data.skipped == {"too large": 1} and set(decoded) == {16}, "the shape of the set is known by then"
    monkeypatch.setattr(safe_decode, "MAX_VIDEO", 5 * 1024 * 768 * 3 - 1)
    with pytest.raises(safe_decode.Refused, match="more than the limit"):
        safe_decode.read_mp4(large)
