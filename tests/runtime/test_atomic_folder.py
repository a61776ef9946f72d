"""Folders that are whole or absent, whatever is killed and whenever."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from adastate.runtime import atomic_folder
from adastate.runtime.atomic_folder import MANIFEST, Damaged


def write(root: Path, name: str, content: bytes = b"weights") -> Path:
    scratch = atomic_folder.begin(root, f"{int(name):08d}")
    (scratch / "part").mkdir()
    (scratch / "state.ckpt").write_bytes(content)
    (scratch / "part" / "shard-0").write_bytes(content * 2)
    return atomic_folder.seal(scratch, {"iteration": int(name)})


def test_a_sealed_folder_says_what_is_in_it(tmp_path: Path) -> None:
    folder = write(tmp_path, "7")
    manifest = atomic_folder.verify(folder)
    assert manifest["iteration"] == 7 and set(manifest["files"]) == {"state.ckpt", "part/shard-0"}
    assert [p.name for p in tmp_path.iterdir()] == ["00000007"]


def newest_whole(root: Path) -> tuple[Path | None, list[str]]:
    """(the newest folder that is what its manifest says, what is wrong with newer ones)."""
    wrong = []
    for folder in reversed(atomic_folder.folders(root)):
        try:
            atomic_folder.verify(folder)
        except Damaged as error:
            wrong.append(str(error))
        else:
            return folder, wrong
    return None, wrong


DAMAGE: dict[str, tuple[Callable[[Path], Any], str]] = {
    "a bit flipped": (lambda f: (f / "state.ckpt").write_bytes(b"weighuR"[:7]), "has other bytes than were written"),
    "truncated": (lambda f: (f / "part" / "shard-0").write_bytes(b"we"), "part/shard-0 has 2 bytes, not 14"),
    "a file gone": (lambda f: (f / "state.ckpt").unlink(), "state.ckpt is missing"),
    "manifest cut": (lambda f: (f / MANIFEST).write_text("{"), "no readable manifest.json"),
    "manifest empty": (lambda f: (f / MANIFEST).write_text('{"files": []}'), "no readable manifest.json"),
    "no files in it": (lambda f: atomic_folder.write_manifest(f, {"iteration": 16, "files": {}}), "lists no files"),
    "an entry cut": (
        lambda f: atomic_folder.write_manifest(f, {"iteration": 16, "files": {"state.ckpt": {"bytes": 7}}}),
        "lists no files",
    ),
    "another's manifest": (
        lambda f: (f / MANIFEST).write_bytes((f.parent / "00000008" / MANIFEST).read_bytes()),
        "holds iteration 8: another checkpoint was copied to this name",
    ),
    "a number changed": (
        lambda f: (f / MANIFEST).write_text((f / MANIFEST).read_text().replace("16,", "17,", 1)),
        "manifest.json is not as it was written",
    ),
    "manifest gone": (lambda f: (f / MANIFEST).unlink(), "no readable manifest.json"),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_damage_is_seen_and_an_earlier_folder_is_taken(tmp_path: Path, kind: str) -> None:
    good, bad = write(tmp_path, "8"), write(tmp_path, "16")
    assert newest_whole(tmp_path) == (bad, [])
    spoil, sentence = DAMAGE[kind]
    spoil(bad)
    with pytest.raises(Damaged, match=sentence):
        atomic_folder.verify(bad)
    found, wrong = newest_whole(tmp_path)
    assert found == good
    assert len(wrong) == (0 if kind == "manifest gone" else 1), "without a manifest it is no finished folder"


def test_order_is_by_number_not_by_letters(tmp_path: Path) -> None:
    for name in ("100", "9", "20"):
        write(tmp_path, name)
    assert [p.name for p in atomic_folder.folders(tmp_path)] == ["00000009", "00000020", "00000100"]


def test_a_flip_in_any_byte_of_a_manifest_is_damage_and_nothing_else(tmp_path: Path) -> None:
    path = write(tmp_path, "3") / MANIFEST
    content, harmless = path.read_bytes(), 0
    for at in range(len(content)):
        flipped = bytearray(content)
        flipped[at] ^= 1 << at % 8
        path.write_bytes(flipped)
        try:
            atomic_folder.verify(tmp_path / "00000003")
            harmless += 1  # one white space for another, which says the same
        except Damaged:
            continue
    assert harmless < len(content) / 20


def test_a_manifest_of_an_earlier_form_is_told_as_such(tmp_path: Path) -> None:
    path = write(tmp_path, "3") / MANIFEST
    manifest = json.loads(path.read_text())
    del manifest[atomic_folder.DIGEST]
    path.write_text(json.dumps(manifest))
    with pytest.raises(
        Damaged, match=r"00000003 was written by an earlier version, .*: continue with that version, or"
    ):
        atomic_folder.verify(path.parent)


@pytest.mark.parametrize(
    "rotten", ["[" * 100_000, '{"iteration": 3, "files": {"a": 1}, "manifest_sha256": ""}', "[1]", "3"]
)
def test_whatever_a_manifest_has_become_it_is_damage(tmp_path: Path, rotten: str) -> None:
    path = write(tmp_path, "3") / MANIFEST
    path.write_text(rotten)
    with pytest.raises(Damaged, match="no readable manifest"):
        atomic_folder.verify(path.parent)
    assert not atomic_folder.is_copy(path.parent)


def test_a_copy_under_the_name_of_another_is_known_by_its_manifest(tmp_path: Path) -> None:
    shutil.copytree(write(tmp_path, "3"), tmp_path / "00000009")
    assert [atomic_folder.is_copy(p) for p in atomic_folder.folders(tmp_path)] == [False, True]


def test_what_others_lay_beside_them_is_left_alone(tmp_path: Path) -> None:
    write(tmp_path, "2")
    for copy in ("00000002-keep", "00000003_before_lr_change", "2", "00000003-again"):
        shutil.copytree(tmp_path / "00000002", tmp_path / copy)
    assert [p.name for p in atomic_folder.folders(tmp_path)] == ["00000002"]
    atomic_folder.sweep(tmp_path)
    assert len(list(tmp_path.iterdir())) == 5


def test_the_place_of_one_is_taken_by_another_whatever_an_earlier_kill_has_left(tmp_path: Path) -> None:
    write(tmp_path, "2", b"two")
    shutil.copytree(tmp_path / "00000002", tmp_path / f"{atomic_folder.REPLACED}00000002")
    assert [p.name for p in atomic_folder.folders(tmp_path)] == ["00000002"]
    assert (write(tmp_path, "2", b"two again") / "state.ckpt").read_bytes() == b"two again"
    assert [p.name for p in tmp_path.iterdir()] == ["00000002"]


def test_set_aside_they_are_whole_and_out_of_the_way(tmp_path: Path) -> None:
    for name in "123":
        write(tmp_path, name)
    for last, wanted in ((3, "aside-1"), (2, "aside-2")):
        aside = atomic_folder.set_aside(tmp_path, atomic_folder.folders(tmp_path)[-1:])
        assert aside == tmp_path / wanted and atomic_folder.verify(aside / f"{last:08d}")["iteration"] == last
    assert [p.name for p in atomic_folder.folders(tmp_path)] == ["00000001"]
    assert atomic_folder.set_aside(tmp_path, []) is None


class Killed(BaseException):
    """What no handler catches, as SIGKILL."""


CALLS = ("fsync", "rename", "rmtree", "write_text")


def steps(monkeypatch: pytest.MonkeyPatch, die_at: int) -> list[str]:
    """Counts the writes, syncs and renames, and dies just before number `die_at`."""
    seen: list[str] = []

    def spy(name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            if len(seen) == die_at:
                raise Killed
            seen.append(name)
            return real(*args, **kwargs)

        return call

    monkeypatch.setattr(os, "fsync", spy("fsync", os.fsync))
    monkeypatch.setattr(Path, "rename", spy("rename", Path.rename))
    monkeypatch.setattr(Path, "write_text", spy("write_text", Path.write_text))
    monkeypatch.setattr(atomic_folder.shutil, "rmtree", spy("rmtree", atomic_folder.shutil.rmtree))
    return seen


def test_killed_before_every_single_step_of_a_save_one_whole_folder_is_left(tmp_path: Path) -> None:
    """Also where the folder is written for the second time, and while an old one is deleted."""
    died = 0
    for at in range(200):
        root = tmp_path / str(at)
        write(root, "2", b"two")
        with pytest.MonkeyPatch.context() as patch:
            steps(patch, at)
            try:
                write(root, "2", b"two again")
                write(root, "3", b"three")
                atomic_folder.delete(root / "00000002")
                finished = True
            except Killed:
                finished = False
        died += not finished
        found, wrong = newest_whole(root)
        assert found is not None and wrong == [], f"died before step {at}"
        for folder in atomic_folder.folders(root):
            atomic_folder.verify(folder)
        atomic_folder.sweep(root)
        assert not [p for p in root.iterdir() if p.name.startswith(".")]
        if finished:
            break
    assert died >= 10


def test_a_manifest_is_plain_json(tmp_path: Path) -> None:
    assert json.loads((write(tmp_path, "1") / MANIFEST).read_text())["files"]["state.ckpt"]["bytes"] == 7
