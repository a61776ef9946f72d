"""What is found in a folder of videos, and what of it is told."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from adastate.media.video_error import VideoError
from datamodules.shards.shard_error import ShardError
from datamodules.tools.shard_set import ShardReport
from datamodules.tools.video_folder import caption_of, look_into, name_in_folder


def found(folder: Path) -> list[str]:
    return [path.relative_to(folder).as_posix() for path in look_into(folder).videos]


def touch(*paths: Path) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def test_linked_folders_are_entered_and_circles_end(tmp_path: Path) -> None:
    videos, elsewhere = tmp_path / "videos", tmp_path / "elsewhere"
    touch(videos / "a.mp4", videos / "real" / "b.MOV", elsewhere / "c.mkv", elsewhere / "deep" / "d.webm")
    (videos / "an alias").symlink_to(videos / "real")
    (videos / "linked").symlink_to(elsewhere)
    (elsewhere / "again").symlink_to(videos)
    (videos / "itself").symlink_to(videos / "itself")
    (videos / "e.mp4").symlink_to(elsewhere / "c.mkv")
    (videos / "gone.mp4").symlink_to(elsewhere / "gone.mp4")
    assert found(videos) == ["a.mp4", "e.mp4", "linked/c.mkv", "linked/deep/d.webm", "real/b.MOV"]
    lost = "a link that leads nowhere"
    assert look_into(videos).closed == {"gone.mp4": lost, "itself": lost}
    (tmp_path / "way").symlink_to(videos)
    assert found(tmp_path / "way") == found(videos)


def test_other_files_are_counted_and_told(tmp_path: Path) -> None:
    touch(*(tmp_path / name for name in ("a.mp4", "a.txt", "a.actions.npy", "b.txt", "c.jpg", "d.JPG", "LICENSE")))
    touch(tmp_path / "A.MP4", tmp_path / "A.TXT", tmp_path / "A.actions.npy")
    touch(*(tmp_path / name for name in ("._a.mp4", ".DS_Store", ".cache/e.mp4")))
    looked = look_into(tmp_path)
    assert [path.name for path in looked.videos] == ["A.MP4", "a.mp4"]
    assert looked.others == {"hidden": 3, ".jpg": 2, ".txt": 1, "without an ending": 1}
    assert looked.told() == "other files, not read: 3 hidden, 2 .jpg, 1 .txt, 1 without an ending"
    touch(tmp_path / "only" / "x.json")
    with pytest.raises(ShardError, match=r"no video in .*only; other files, not read: 1 \.json: put files there"):
        look_into(tmp_path / "only")


def test_any_name_will_do(tmp_path: Path) -> None:
    names = ["²3 b.mp4", "12:30.mp4", "雪 %03d.mp4", "a\nb.mp4", os.fsdecode(b"caf\xe9.mp4")]
    touch(*(tmp_path / name for name in names))
    told = {name_in_folder(path, tmp_path) for path in look_into(tmp_path).videos}
    assert told == {*names[:-1], "caf\\xe9.mp4"}
    for name in told:
        name.encode()


TEXT = "1980s: a street,\u2028 café"


@pytest.mark.parametrize(
    "data",
    [TEXT.encode(code) for code in ("utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be")]
    + [TEXT.encode() + b"\r\n\r\n", b"\r\n" + TEXT.encode()],
)
def test_captions_are_read_in_every_encoding(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "a b.c.txt").write_bytes(data)
    assert caption_of(tmp_path / "a b.c.mp4") == TEXT


def test_captions_in_latin_1_and_those_that_are_none(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes("ein Hügel".encode("latin-1"))
    assert caption_of(tmp_path / "a.mp4") == "ein Hügel"
    assert caption_of(tmp_path / "b.mp4") == ""
    (tmp_path / "B.TXT").write_text("a hill")
    assert caption_of(tmp_path / "B.MP4") == "a hill"
    (tmp_path / "c.txt").write_bytes(b"\x89PNG\r\n\x1a\n\x00")
    with pytest.raises(VideoError, match=r"^c\.txt is not a text file: save it as UTF-8$"):
        caption_of(tmp_path / "c.mp4")


def test_names_that_steer_a_terminal_are_spelled_out(tmp_path: Path) -> None:
    told = str(ShardReport(tmp_path, 0, 0, 0, {"a\x1b[2Jb\u202ec\n.mp4": "no caption"}))
    assert "skipped a\\x1b[2Jb\\u202ec\\n.mp4: no caption" in told
