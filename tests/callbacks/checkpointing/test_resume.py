"""A checkpoint is looked at by all ranks together, each its share, and damage on one rank's share is every rank's."""

from __future__ import annotations

import json
import multiprocessing
import os
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from adastate.runtime import atomic_folder
from callbacks.checkpointing import resume
from callbacks.checkpointing.checkpoints import LOG
from callbacks.checkpointing.resume import (
    FORMAT,
    STATE,
    look_first,
    newest_checkpoint,
    require_whole_checkpoint,
    versions,
)
from tests.support import kills
from tests.support.kills import Plan
from tests.support.ports import free_port

needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="runs are forked")


def write(root: Path, name: str, packages: dict[str, str] | None = None) -> Path:
    """A checkpoint of six files of different sizes."""
    scratch = atomic_folder.begin(root, f"{int(name):08d}")
    (scratch / STATE).mkdir()
    for i in range(6):
        (scratch / STATE / f"student-{i:05}.pt").write_bytes(bytes([i]) * (100 + i))
    return atomic_folder.seal(scratch, {"iteration": int(name), "format": FORMAT, "versions": packages or versions()})


def spoil(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def look(rank: int, port: int, root: Path, path: Path) -> None:
    """One of two ranks goes on from `path`; leaves what it read, what it was told, and from where it goes on."""
    warnings.simplefilter("always")
    torch.distributed.init_process_group("gloo", f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    read = list[str]()
    digest = atomic_folder._digest
    atomic_folder._digest = lambda file: (read.append(str(file.relative_to(root))), digest(file))[1]  # type: ignore[func-returns-value]
    found, opened, said = list[str](), list[str](), ""

    class Strategy:
        def load_checkpoint(self, state: Path, weights_only: bool | None = None) -> None:
            opened.append(str(state))

    strategy = Strategy()
    trainer: Any = SimpleNamespace(world_size=2, global_rank=rank, strategy=strategy)
    look_first(trainer, lambda state: found.append(str(state)))
    with warnings.catch_warnings(record=True) as warned:
        try:
            strategy.load_checkpoint(str(path), weights_only=True)
        except atomic_folder.Damaged as error:
            said = str(error)
    told = {"read": read, "opened": opened, "found": found, "said": said, "warned": [str(w.message) for w in warned]}
    (root / f"rank{rank}.json").write_text(json.dumps(told))


def both(root: Path, path: Path) -> list[dict[str, Any]]:
    port = free_port()
    context = multiprocessing.get_context("fork")
    ranks = [context.Process(target=look, args=(rank, port, root, path)) for rank in (0, 1)]
    for process in ranks:
        process.start()
    for process in ranks:
        process.join(60)
        assert process.exitcode == 0
    return [json.loads((root / f"rank{rank}.json").read_text()) for rank in (0, 1)]


@needs_fork
def test_every_file_is_read_once_and_shares_are_even(tmp_path: Path) -> None:
    folder = write(tmp_path, "3")
    found = both(tmp_path, folder / STATE)
    shares = [set(told["read"]) for told in found]
    assert len(shares[0]) == len(shares[1]) == 3 and not shares[0] & shares[1]
    assert shares[0] | shares[1] == {f"00000003/{name}" for name in atomic_folder.checked_manifest(folder)["files"]}
    for told in found:
        assert told["opened"] == told["found"] == [str(folder / STATE)] and not told["said"]


@needs_fork
@pytest.mark.parametrize("number", range(6))
def test_damage_in_one_rank_s_share_is_refused_by_all_in_the_same_words(tmp_path: Path, number: int) -> None:
    folder = write(tmp_path, "3")
    spoil(folder / STATE / f"student-{number:05}.pt")
    for told in both(tmp_path, folder / STATE):
        assert told["said"].endswith(f"student-{number:05}.pt has other bytes than were written")
        assert not told["opened"] and not told["found"], "before anything is loaded"


@needs_fork
@pytest.mark.parametrize("number", [4, 5])
def test_all_go_on_from_the_newest_whole_one(tmp_path: Path, number: int) -> None:
    """Given the folder of checkpoints, whichever rank has the damaged file in its share."""
    write(tmp_path, "2"), write(tmp_path, "3")
    spoil(tmp_path / "00000003" / STATE / f"student-{number:05}.pt")
    for told in both(tmp_path, tmp_path):
        assert told["opened"] == told["found"] == [str(tmp_path / "00000002" / STATE)]


@needs_fork
def test_no_whole_one_is_refused(tmp_path: Path) -> None:
    spoil(write(tmp_path, "3") / STATE / "student-00000.pt")
    for told in both(tmp_path, tmp_path):
        assert told["said"].startswith(f"no checkpoint in {tmp_path} is complete: start over with RUN=another/folder")


def test_a_file_that_cannot_be_read_is_damage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a disk that fails, say: an exception on one rank alone would leave the others waiting."""
    folder = write(tmp_path, "3")

    def fails(path: Path) -> str:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(atomic_folder, "_digest", fails)
    with pytest.raises(atomic_folder.Damaged, match=r"3 cannot be read \(Input/output error\)"):
        require_whole_checkpoint(folder / STATE)
    with pytest.warns(UserWarning, match="resuming from an earlier checkpoint"):
        assert newest_checkpoint(tmp_path) is None


@pytest.mark.parametrize(("part", "told"), [(None, False), (2, False), (1, True), (0, True)])
@pytest.mark.parametrize("package", ["lightning", "deepspeed"])
def test_another_version_of_what_it_depends_on_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, package: str, part: int | None, told: bool
) -> None:
    """Major and minor; a patch release reads what another wrote."""
    there = [3, 4, 5]
    if part is not None:
        there[part] += 1
    of = {"adastate": "1.0", "lightning": "2.6.0", "deepspeed": "0.19.8", package: ".".join(map(str, there))}
    folder = write(tmp_path, "3", of)
    monkeypatch.setattr(resume, "versions", lambda: {**of, package: "3.4.5"})
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        require_whole_checkpoint(folder / STATE)
    expected = f"{folder} was saved with {package} {of[package]}, and is loaded with 3.4.5"
    assert [str(w.message) for w in warned] == [expected] * told


@needs_fork
@pytest.mark.parametrize("strategy", ["ddp", "fsdp2", "zero2"])
@pytest.mark.slow
def test_a_run_of_two_processes(tmp_path: Path, strategy: str) -> None:
    """Its newest checkpoint damaged, it goes on from the one before, to the same bits; named, that one is refused."""
    if strategy == "zero2":
        pytest.importorskip("deepspeed")
    plan = Plan(strategy, 2, iterations=3)
    expected, _ = kills.straight(plan, tmp_path / "straight")
    run = tmp_path / "run"
    kills.straight(Plan(strategy, 2, iterations=2), run)
    newest_state = run / "checkpoints/00000002" / STATE
    file = max(newest_state.glob("*"), key=lambda p: p.stat().st_size) if newest_state.is_dir() else newest_state
    spoil(file)
    with pytest.raises(RuntimeError, match="a process ended"):
        kills.straight(Plan(strategy, 2, iterations=3, start=f"00000002/{STATE}"), run)
    sentence = f"00000002 is damaged: {file.relative_to(newest_state.parent)} has other bytes than were written"
    for rank in (0, 1):
        assert f"Damaged: {run}/checkpoints/{sentence}" in (run / f"log.{rank}").read_text()
    found, _ = kills.straight(plan, run)
    assert found == expected
    (resumed,) = [e for e in map(json.loads, (run / LOG).read_text().splitlines()) if e["event"] == "resumed"]
    assert resumed["checkpoint"] == f"{run}/checkpoints/00000001"
