"""Files that are whole or absent, whatever fails or is killed in between."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from adastate.runtime import atomic


def test_nothing_is_left_of_what_failed(tmp_path: Path) -> None:
    path = tmp_path / "new" / "x"
    with pytest.raises(RuntimeError), atomic.replacing(path) as scratch:
        scratch.write_text("half")
        raise RuntimeError
    assert list(path.parent.iterdir()) == []
    path.write_text("old")
    with pytest.raises(RuntimeError), atomic.replacing(path) as scratch:
        scratch.mkdir()
        (scratch / "part").write_text("half")
        raise RuntimeError
    assert path.read_text() == "old" and list(path.parent.iterdir()) == [path]


def test_a_folder_takes_the_place_of_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "x"
    for content in ("one", "two"):
        with atomic.replacing(path) as scratch:
            scratch.mkdir()
            (scratch / content).write_text(content)
    assert [p.name for p in path.iterdir()] == ["two"] and list(tmp_path.iterdir()) == [path]


def test_the_old_file_is_there_until_the_new_one_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    for content in ({"n": 1}, {"n": "ä"}):
        atomic.write_json(path, content)
    with atomic.replacing(path) as scratch:
        scratch.write_text("half")
        assert path.read_text(encoding="utf-8") == '{\n "n": "ä"\n}'
        assert list(tmp_path.glob("*.json")) == [path], "no pattern for files of its kind finds the scratch file"
    assert path.read_text() == "half"


def test_what_a_killed_process_left_is_written_over(tmp_path: Path) -> None:
    path = tmp_path / "x"
    atomic.scratch_of(path).write_text("a half file of another process")
    atomic.write_text(path, "new")
    assert path.read_text() == "new" and list(tmp_path.iterdir()) == [path]


def test_nothing_of_a_folder_that_a_killed_process_left_gets_into_the_new_one(tmp_path: Path) -> None:
    path = tmp_path / "x"
    left = atomic.scratch_of(path)
    left.mkdir()
    (left / "half").write_text("a half file of another process")
    with atomic.replacing(path) as scratch:
        scratch.mkdir(exist_ok=True)
        (scratch / "whole").write_text("new")
    assert [p.name for p in path.iterdir()] == ["whole"] and list(tmp_path.iterdir()) == [path]


def test_processes_that_write_the_same_file_do_not_meet(tmp_path: Path) -> None:
    path = tmp_path / "x"
    with atomic.replacing(path, "1") as one, atomic.replacing(path, "2") as two:
        one.write_text("same")
        two.write_text("same")
        assert one != two
    assert path.read_text() == "same" and list(tmp_path.iterdir()) == [path]


def test_durable_has_the_bytes_on_the_disk_before_the_rename_and_the_rename_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []
    real, rename = os.fsync, Path.replace

    def fsync(handle: int) -> None:
        real(handle)
        done.append(Path(os.readlink(f"/proc/self/fd/{handle}")).name)

    def replace(self: Path, target: Path) -> Path:
        done.append("rename")
        return rename(self, target)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(Path, "replace", replace)
    with atomic.replacing(tmp_path / "x", durable=True) as scratch:
        scratch.write_text("text")
    assert done == [".x.part", "rename", tmp_path.name]
    atomic.write_text(tmp_path / "y", "text")
    assert done[3:] == ["rename"]
