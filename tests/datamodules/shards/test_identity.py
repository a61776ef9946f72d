"""A set is known again, and another one under its name is noticed: on resume, on opening, in the middle of a run."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from datamodules.clips import ShardData
from datamodules.shards import identity
from datamodules.shards.identity import same_place
from datamodules.shards.index import find_shards
from datamodules.shards.remote import Remote
from tests.datamodules.test_clips import Members, captions, latents, members, npy, take, write


def other(i: int, old: Members) -> Members:
    """Other numbers, in as many bytes."""
    return members(i) | {"latent.npy": npy(latents(i + 1))}


def resumed(shards: str, state: dict[str, object]) -> None:
    data = ShardData(shards, batch=2)
    data.load_state_dict(state)
    data.train_dataloader()


def in_place(source: Path, target: Path) -> None:
    """Other bytes under the same name, with the date and, where it can be, the inode of before."""
    date = target.stat().st_mtime_ns
    target.write_bytes(source.read_bytes())
    os.utime(target, ns=(date, date))


def swapped(source: Path, target: Path) -> None:
    shutil.copy(source, target.with_suffix(".new"))
    date = target.stat().st_mtime_ns
    os.utime(target.with_suffix(".new"), ns=(date, date))
    target.with_suffix(".new").replace(target)


@pytest.mark.parametrize("index", [True, False])
def test_replaced_content_is_noticed_on_resume(tmp_path: Path, index: bool) -> None:
    folders = [Path(write(tmp_path / "a", 8)), Path(write(tmp_path / "b", 8, change=other))]
    if not index:
        for folder in folders:
            (folder / "index.json").unlink()
    data = ShardData(str(folders[0]), batch=2)
    data.train_dataloader()
    state = data.state_dict()
    resumed(str(folders[0]), state)
    for file in folders[1].iterdir():
        swapped(file, folders[0] / file.name)
    with pytest.raises(
        ValueError, match=rf"of other data \({'content' if index else 'files'} .*use the same data again"
    ):
        resumed(str(folders[0]), state)
    older = {**state, "data": {k: v for k, v in state["data"].items() if k not in ("content", "files")}}
    resumed(str(folders[0]), older)


def test_a_copy_of_a_set_with_an_index_is_the_same_set(tmp_path: Path) -> None:
    data = ShardData(write(tmp_path / "a", 8), batch=2)
    data.train_dataloader()
    shutil.copytree(tmp_path / "a", tmp_path / "copy", copy_function=shutil.copyfile)
    resumed(str(tmp_path / "copy"), data.state_dict())


@pytest.mark.filterwarnings("ignore:skipping")
def test_a_shard_unlike_its_index_is_not_used(tmp_path: Path) -> None:
    folder, changed = Path(write(tmp_path / "a", 8)), Path(write(tmp_path / "b", 8, change=other))
    shutil.copyfile(changed / "shard-000001.tar", folder / "shard-000001.tar")
    data = ShardData(str(folder), batch=2, max_skipped_share=1)
    assert {int(c.split()[1]) for c in captions(take(data, 4))} == {0, 1, 2, 3}
    assert data.skipped == {"changed shard": 4}
    with (folder / "shard-000001.tar").open("ab") as file:
        file.write(bytes(512))
    os.utime(folder / "shard-000001.tar", (0, 0))
    data = ShardData(str(folder), batch=2, max_skipped_share=1)
    data.setup()
    assert data.skipped == {"changed shard": 4}


@pytest.mark.filterwarnings("ignore:skipping")
@pytest.mark.parametrize("change", [swapped, in_place])
def test_a_large_shard_with_size_and_date_of_the_old_one_is_not_used(
    tmp_path: Path, change: Callable[[Path, Path], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """No shard is so large that nothing of it is looked at, and no date speaks for one."""
    monkeypatch.setattr(identity, "_READ_WHOLE", 0)
    folder, changed = Path(write(tmp_path / "a", 8)), Path(write(tmp_path / "b", 8, change=other))
    change(changed / "shard-000001.tar", folder / "shard-000001.tar")
    data = ShardData(str(folder), batch=2, max_skipped_share=1)
    data.setup()
    assert data.skipped == {"changed shard": 4}


def test_a_sparse_file_of_any_size_is_known_by_its_places(tmp_path: Path) -> None:
    for length, at in ((0, 0), (1, 0), (5000, 4999), (2**26, 2**25)):
        file = tmp_path / str(length)
        file.touch()
        os.truncate(file, length)
        before = identity.spots(file)
        assert before == identity.spots(file)
        if length:
            with file.open("r+b") as opened:
                opened.seek(at)
                opened.write(b"x" * min(length - at, 2**21))
            assert identity.spots(file) != before


@pytest.mark.filterwarnings("ignore:skipping")
@pytest.mark.parametrize("change", [swapped, in_place])
def test_a_shard_swapped_in_the_middle_of_a_run_is_noticed(
    tmp_path: Path, change: Callable[[Path, Path], None]
) -> None:
    folder, changed = Path(write(tmp_path / "a", 8)), Path(write(tmp_path / "b", 8, change=other))
    data = ShardData(str(folder), batch=2, memory_gb=0, max_skipped_share=1)
    data.setup()
    change(changed / "shard-000001.tar", folder / "shard-000001.tar")
    if change is in_place:
        os.utime(folder / "shard-000001.tar")
    assert {int(c.split()[1]) for c in captions(take(data, 4))} == {0, 1, 2, 3}
    assert data.skipped == {"changed shard": 4}


def test_a_shard_counts_once_however_it_is_spelt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "s", 8)
    monkeypatch.chdir(tmp_path)
    one = tmp_path / "s" / "shard-000000.tar"
    (tmp_path / "s" / "link-0.tar").symlink_to(one)
    os.link(one, tmp_path / "s" / "link-1.tar")
    (tmp_path / "t").symlink_to(tmp_path / "s")
    spellings = (
        f"s/{one.name},./s/{one.name},s//{one.name},s/../s/{one.name},{one},t/{one.name},s/link-0.tar,s/link-1.tar"
    )
    assert len(find_shards(f"{{{spellings}}}")) == 1
    assert len(find_shards(str(tmp_path / "s"))) == 2, "links in the folder are the shards that they lead to"


@pytest.mark.parametrize(
    "url",
    [
        "http://HOST/a/b.tar",
        "HTTP://host/a/b.tar",
        "https://host:443/a/b.tar",
        "http://host//a/./b.tar",
        "http://host/a/%62.tar",
        "http://host/c/../a/b.tar#x",
        "http://joe:pw@host/a/b.tar?token=1",
        "http://host/a/b.tar?X-Amz-Signature=2",
    ],
)
def test_spellings_of_a_url(url: str) -> None:
    assert same_place(Remote(url)) == same_place(Remote("http://host/a/b.tar"))


@pytest.mark.parametrize(
    "url", ["http://host/a/B.tar", "http://host:8000/a/b.tar", "http://host/a/b.tar?part=2", "http://other/a/b.tar"]
)
def test_other_files_are_others(url: str) -> None:
    assert same_place(Remote(url)) != same_place(Remote("http://host/a/b.tar"))
    assert same_place(Remote("s3://b/a%20b.tar")) != same_place(Remote("s3://b/a b.tar"))
