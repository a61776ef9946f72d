from __future__ import annotations

import io
import json
import pickle
import tarfile
import warnings
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import webdataset

from adastate.media.video import to_float
from adastate.types import Batch
from datamodules.clips import ShardData
from datamodules.shards.dataset import ShardDataset
from datamodules.shards.decode import rows_of_actions
from datamodules.shards.index import find_shards, read_shard
from datamodules.shards.shard_error import ShardError
from datamodules.shards.shard_writer import ShardWriter, npy
from datamodules.tools.footage import encode_clip
from tests.support.cases import thinned
from tests.support.sample_videos import scene

F, SHAPE = 5, (5, 2, 4, 4)
Members = dict[str, bytes]


def latents(i: int) -> torch.Tensor:
    return torch.full(SHAPE, float(i)) + torch.arange(F).view(F, 1, 1, 1) / 8


def members(i: int) -> Members:
    return {"latent.npy": npy(latents(i)), "txt": f"clip {i}".encode(), "json": json.dumps({"i": i}).encode()}


def write(out: Path, count: int, per_shard: int = 4, change: Callable[[int, Members], Members] | None = None) -> str:
    with ShardWriter(out, per_shard) as writer:
        for i in range(count):
            writer.add(f"clip-{i:03d}", change(i, members(i)) if change else members(i))
    return str(out)


def only(*which: int, **new: bytes | None) -> Callable[[int, Members], Members]:
    """Changes the members of some samples: new bytes, or None to leave one out."""

    def change(i: int, old: Members) -> Members:
        named = {kind.replace("_", "."): data for kind, data in new.items()}
        return {k: v for k, v in (old | named).items() if v is not None} if i in which else old  # type: ignore[misc]

    return change


def take(data: ShardData, batches: int, rank: int = 0, world: int = 1) -> list[Batch]:
    return list(islice(iter(data.batches(rank, world)), batches))


def captions(batches: list[Batch]) -> list[str]:
    return [prompt for batch in batches for prompt in batch.prompts]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-be", "latin-1"])
def test_captions_of_shards_are_read_in_every_encoding(tmp_path: Path, encoding: str) -> None:
    folder = write(tmp_path, 4, change=only(0, 1, 2, 3, txt="1980s: ein Hügel\r\n".encode(encoding)))
    assert captions(take(ShardData(folder, batch=4), 1)) == ["1980s: ein Hügel"] * 4


def test_rows_are_what_was_written(tmp_path: Path) -> None:
    batch = next(iter(ShardData(write(tmp_path, 10), batch=10).train_dataloader()))
    assert sorted(batch.prompts) == [f"clip {i}" for i in range(10)]
    assert batch.index.tolist() == list(range(10)) and batch.index.dtype == torch.int64
    assert batch.latents is not None and batch.latents.dtype == torch.float32 and batch.video is None
    for row, prompt in zip(batch.latents, batch.prompts, strict=True):
        assert torch.equal(row, latents(int(prompt.removeprefix("clip "))))


def test_video_comes_as_numbers_between_minus_one_and_one(tmp_path: Path) -> None:
    clip = scene(0, 6, size=(16, 16))
    with ShardWriter(tmp_path, 4) as writer:
        writer.add("a", {"mp4": encode_clip(clip, 8, crf=0, full_colour=True), "txt": b"a"})
    batch = take(ShardData(str(tmp_path), batch=1, want="video", frames=4), 1)[0]
    assert batch.video is not None and batch.video.shape == (1, 4, 3, 16, 16) and batch.latents is None
    assert (batch.video[0] - to_float(clip[:4])).abs().mean() < 0.02


def test_webdataset_itself_reads_our_shards(tmp_path: Path) -> None:
    write(tmp_path, 6)
    read = webdataset.WebDataset(list(map(str, find_shards(str(tmp_path)))), shardshuffle=False, empty_check=False)
    assert [(s["__key__"], s["txt"]) for s in read] == [(f"clip-{i:03d}", b"clip %d" % i) for i in range(6)]


def test_we_read_what_webdataset_writes_in_folders_and_capitals(tmp_path: Path) -> None:
    with webdataset.TarWriter(str(tmp_path / "a.tar"), encoder=False) as tar:
        tar.write({"__key__": "deep/er/clip", "LATENT.npy": members(0)["latent.npy"], "txt": b"x", "cls": b"7"})
    sample = read_shard(tmp_path / "a.tar")[0]
    assert sample.key == "deep/er/clip" and set(sample.members) == {"latent.npy", "txt", "cls"}
    assert take(ShardData(str(tmp_path), batch=1), 1)[0].prompts == ["x"]


@pytest.mark.parametrize("world", [2, 4])
def test_the_global_order_does_not_depend_on_the_number_of_processes(tmp_path: Path, world: int) -> None:
    shards = write(tmp_path, 13)
    alone = take(ShardData(shards, batch=8, seed=7), 6)
    ranks = [take(ShardData(shards, batch=8 // world, seed=7), 6, r, world) for r in range(world)]
    for k, whole in enumerate(alone):
        parts = [rank[k] for rank in ranks]
        assert torch.equal(torch.cat([p.index for p in parts]), whole.index)
        assert captions(parts) == whole.prompts
        assert whole.latents is not None
        assert torch.equal(torch.cat([p.latents for p in parts if p.latents is not None]), whole.latents)
        assert whole.index.tolist() == list(range(8 * k, 8 * k + 8))


def test_every_epoch_gives_every_clip_once_and_seeds_differ(tmp_path: Path) -> None:
    shards = write(tmp_path, 12)
    got = captions(take(ShardData(shards, batch=4), 6))
    assert sorted(got[:12]) == sorted(got[12:]) == sorted(f"clip {i}" for i in range(12))
    assert got[:12] != got[12:] and got != captions(take(ShardData(shards, batch=4, seed=1), 6))


def test_without_memory_and_with_workers_the_batches_are_the_same(tmp_path: Path) -> None:
    shards = write(tmp_path, 9)
    usual = captions(take(ShardData(shards, batch=3), 7))
    assert captions(take(ShardData(shards, batch=3, memory_gb=0), 7)) == usual
    some = ShardData(shards, batch=3, memory_gb=3 * latents(0).nbytes / 2 / 2**30)  # room for three clips
    assert captions(take(some, 7)) == usual
    assert some.rows is not None and len(some.rows._memory) == 3
    loader = ShardData(shards, batch=3, workers=2).train_dataloader()
    assert captions(list(islice(iter(loader), 7))) == usual
    assert isinstance(pickle.loads(pickle.dumps(some.rows)), ShardDataset)


def test_frames_are_cropped_from_the_start(tmp_path: Path) -> None:
    batch = take(ShardData(write(tmp_path, 4), batch=2, frames=2), 1)[0]
    assert batch.latents is not None
    for row, prompt in zip(batch.latents, batch.prompts, strict=True):
        assert torch.equal(row, latents(int(prompt.removeprefix("clip ")))[:2])


def test_a_stream_resumes_where_it_stopped(tmp_path: Path) -> None:
    data = ShardData(write(tmp_path, 7), batch=2)
    whole = take(data, 9)
    resumed = data.batches()
    resumed.load_state_dict({"position": int(whole[4].index[-1]) + 1})
    assert captions(list(islice(iter(resumed), 4))) == captions(whole[5:])


def test_patterns_find_shards(tmp_path: Path) -> None:
    write(tmp_path / "a", 10)
    names = [f"shard-{i:06d}.tar" for i in range(3)]
    for pattern in ("a", "a/*.tar", "a/shard-{000000..000002}.tar", "{a,a}", "a/shard-000000.tar"):
        expected = names if "0.tar" not in pattern or "{" in pattern else names[:1]
        assert [path.name for path in find_shards(str(tmp_path / pattern))] == expected


@pytest.mark.parametrize("pattern", ["pipe:echo hi", "file:///etc/a.tar", "simplecache::https://host/a.tar"])
def test_shards_are_files_here_or_behind_a_known_url(pattern: str) -> None:
    with pytest.raises(ShardError, match=r"shards must be local \.tar files or URLs with http://, https://, s3://"):
        ShardData(pattern).setup()


def test_nothing_matching_is_said(tmp_path: Path) -> None:
    for missing in (tmp_path, tmp_path / "a-*.tar", tmp_path / "a-{0..2}.tar"):
        with pytest.raises(ShardError, match=r"no shard matches .*make shards VIDEOS="):
            ShardData(str(missing)).setup()


def test_an_empty_shard_is_refused(tmp_path: Path) -> None:
    tarfile.open(tmp_path / "a.tar", "w").close()
    with pytest.raises(ShardError, match=r"a\.tar is empty: delete or recreate it"):
        ShardData(str(tmp_path)).setup()


def cuts(path: Path) -> dict[str, int]:
    with tarfile.open(path) as tar:
        last = tar.getmembers()[-1]
        second = tar.getmembers()[1]
    return {
        "nothing": 0,
        "within a header": second.offset + 100,
        "between members": second.offset,
        "within data": second.offset_data + 3,
        "before its end": last.offset_data + 512,
    }


@pytest.mark.parametrize("where", ["nothing", "within a header", "between members", "within data", "before its end"])
def test_a_half_written_shard_is_refused_wherever_it_ends(tmp_path: Path, where: str) -> None:
    path = Path(write(tmp_path, 3)) / "shard-000000.tar"
    path.write_bytes(path.read_bytes()[: cuts(path)[where]])
    with pytest.raises(ShardError, match=r"shard .*000\.tar is not a whole tar file \(.+\): delete and recreate it"):
        ShardData(str(tmp_path)).setup()


def test_what_is_no_tar_or_holds_a_member_twice_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_bytes(b"no tar at all " * 1000)
    with pytest.raises(ShardError, match="not a whole tar file"):
        read_shard(tmp_path / "a.tar")
    with webdataset.TarWriter(str(tmp_path / "b.tar"), encoder=False) as tar:
        for _ in range(2):
            tar.write({"__key__": "same", "txt": b"x"})
    with pytest.raises(ShardError, match="duplicate file name"):
        read_shard(tmp_path / "b.tar")


def pickled() -> bytes:
    out = io.BytesIO()
    np.save(out, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    return out.getvalue()


def nan() -> bytes:
    out = io.BytesIO()
    np.save(out, np.full(SHAPE, np.nan, dtype=np.float16))
    return out.getvalue()


BAD: dict[str, tuple[Members | dict[str, Any], str]] = {
    "no caption": ({"txt": None}, r"clip-00\d has no \.txt, only json, latent\.npy: put captions beside the videos"),
    "an empty caption": ({"txt": b" \n"}, r"has an empty \.txt: write its caption"),
    "no latents": (
        {"latent_npy": None, "mp4": b"film"},
        r"has no latent\.npy, only json, mp4, txt: `make shards VIDEOS=\.\.\. LATENTS=1` writes latents",
    ),
    "a pickle": ({"latent_npy": pickled()}, r"cannot be decoded \(Object arrays cannot be loaded"),
    "half an array": ({"latent_npy": members(0)["latent.npy"][:150]}, r"cannot be decoded"),
    "one axis too few": ({"latent_npy": npy(latents(0)[0])}, r"of shape \(2, 4, 4\), but 4 axes are needed"),
    "nan": ({"latent_npy": nan()}, "numbers that are not finite"),
    "too few frames": ({"latent_npy": npy(latents(0)[:3])}, r"has 3 frames of the 4 needed: lower data\.frames"),
    "another size": (
        {"latent_npy": npy(latents(0)[..., 1:])},
        r"is \[4, 2, 4, 3\], but the others \[4, 2, 4, 4\]: separate sizes",
    ),
    "broken facts": ({"json": b"{"}, r"has an invalid \.json"),
}


@pytest.mark.parametrize("kind", thinned(BAD, every=3))
def test_few_bad_samples_are_skipped_counted_and_named_and_many_refused(tmp_path: Path, kind: str) -> None:
    change, says = BAD[kind]
    shards = write(tmp_path / "few", 20, change=only(5, **change))
    data = ShardData(shards, batch=5, frames=4)  # one of twenty is the share that is allowed
    with pytest.warns(UserWarning, match=f"skipping a sample, .*{says}"):
        batches = take(data, 8)
    assert sum(data.skipped.values()) == 1
    assert "clip 5" not in captions(batches) and len(set(captions(batches))) == 19
    assert torch.cat([b.index for b in batches]).tolist() == list(range(40))

    many = ShardData(
        write(tmp_path / "many", 20, change=only(3, 5, 8, **change)), batch=5, frames=4, max_skipped_share=0.1
    )
    with (
        warnings.catch_warnings(),
        pytest.raises(ShardError, match=rf"3 of 20 samples .* cannot be used: 3 with .*{says}"),
    ):
        warnings.simplefilter("ignore")
        take(many, 8)


@pytest.mark.filterwarnings("ignore:skipping")
def test_bad_samples_leave_the_global_order_the_same_for_any_number_of_processes(tmp_path: Path) -> None:
    shards = write(tmp_path, 30, change=only(2, 11, txt=b""))
    alone = take(ShardData(shards, batch=6, max_skipped_share=0.1), 10)
    ranks = [take(ShardData(shards, batch=3, max_skipped_share=0.1), 10, r, 2) for r in range(2)]
    assert [captions([a, b]) for a, b in zip(*ranks, strict=True)] == [b.prompts for b in alone]


@pytest.mark.filterwarnings("ignore:skipping")
def test_a_bad_sample_gives_its_place_to_the_next_in_the_order(tmp_path: Path) -> None:
    good = captions(take(ShardData(write(tmp_path / "good", 20), batch=4), 10))
    got = captions(take(ShardData(write(tmp_path / "one", 20, change=only(3, txt=b"")), batch=4), 10))
    assert got == [good[i + 1] if prompt == "clip 3" else prompt for i, prompt in enumerate(good)]


@pytest.mark.filterwarnings("ignore:skipping")
def test_a_set_without_any_good_sample_is_refused_even_if_all_is_forgiven(tmp_path: Path) -> None:
    with pytest.raises(ShardError, match="none of the 3 samples"):
        ShardData(write(tmp_path, 3, change=only(0, 1, 2, txt=b"")), batch=1, max_skipped_share=1).setup()


def test_a_batch_larger_than_the_set_is_refused(tmp_path: Path) -> None:
    data = ShardData(write(tmp_path, 6), batch=4)
    take(data, 1)
    with pytest.raises(ShardError, match="a batch of 4 in each of 2 processes exceeds the 6 samples"):
        data.batches(0, 2)


def test_frames_are_checked_at_construction() -> None:
    with pytest.raises(ValueError, match=r"data\.frames is 0: give 1 or more"):
        ShardData("anywhere", frames=0)


def steered(rows: int = F, keys: int = 8, value: int = 1, dtype: torch.dtype = torch.uint8) -> bytes:
    actions = torch.zeros(rows, keys, dtype=dtype)
    actions[::2, 1] = value
    return npy(actions, dtype)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.bool, torch.float32])
def test_actions_go_along_with_their_clip_and_are_cropped_with_it(tmp_path: Path, dtype: torch.dtype) -> None:
    shards = write(tmp_path, 6, change=only(*range(6), actions_npy=steered(dtype=dtype)))
    (batch,) = take(ShardData(shards, batch=6, frames=3), 1)
    assert batch.actions is not None and batch.actions.dtype == torch.float32
    assert batch.actions[..., 1].tolist() == [[1, 0, 1]] * 6 and batch.actions.sum() == 12
    (unread,) = take(ShardData(shards, batch=6, actions=False), 1)
    assert unread.actions is None


def test_rows_of_actions_of_a_video_are_of_latent_frames() -> None:
    assert [rows_of_actions(7, 21, n) for n in (21, 6, 5)] == [7, 2, None]
    assert [rows_of_actions(6, 21, n) for n in (21, 9, 1, 6)] == [6, 3, 1, None], "the first row is of one frame"
    assert rows_of_actions(5, 5, 4) == 4 and rows_of_actions(4, 9, 9) is None


BAD_ACTIONS: dict[str, tuple[bytes | None, str]] = {
    "no array": (b"left", r"it is not a \.npy file: write 0/1 columns"),
    "a pickle": (pickled(), "Object arrays cannot be loaded"),
    "strange numbers": (npy(torch.ones(F, 8), torch.float64)[:-8], "its header claims"),
    "a two": (steered(value=2), "has actions that are neither 0 nor 1"),
    "nan": (nan(), "has actions of shape"),
    "a row too few": (steered(F - 1), "has 4 rows of actions for 5 frames, of which 4 are needed"),
    "other keys": (
        steered(keys=4),
        r"has actions \[4, 4\], but the others actions \[4, 8\]: all samples of a set must have actions",
    ),
    "none at all": (
        None,
        r"has no actions\.npy, but the others actions \[4, 8\]: all samples of a set must have actions, or none",
    ),
}


@pytest.mark.parametrize("kind", BAD_ACTIONS)
def test_a_clip_with_bad_actions_is_skipped_counted_and_named(tmp_path: Path, kind: str) -> None:
    data, says = BAD_ACTIONS[kind]

    def change(i: int, old: Members) -> Members:
        mine = steered() if i != 5 else data
        return old if mine is None else {**old, "actions.npy": mine}

    read = ShardData(write(tmp_path, 20, change=change), batch=5, frames=4)
    with pytest.warns(UserWarning, match=f"skipping a sample, shard-000001.tar: clip-005 .*{says}"):
        batches = take(read, 8)
    assert sum(read.skipped.values()) == 1 and "clip 5" not in captions(batches)
    assert all(b.actions is not None and b.actions.shape == (5, 4, 8) for b in batches)


@pytest.mark.filterwarnings("ignore:skipping")
def test_one_steered_clip_among_others_is_skipped_too_and_half_of_them_are_refused(tmp_path: Path) -> None:
    few = ShardData(write(tmp_path / "few", 20, change=only(19, actions_npy=steered())), batch=5)
    assert all(batch.actions is None for batch in take(few, 8)) and dict(few.skipped) == {"other actions": 1}
    half = write(tmp_path / "half", 20, change=only(*range(0, 20, 2), actions_npy=steered()))
    with pytest.raises(ShardError, match=r"other actions, the first: shard-.*all samples of a set must have actions"):
        take(ShardData(half, batch=5), 8)
