"""A share of the runs in which one call on the disk after another fails; `make faults` makes all of them."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from tests.support import disk_faults, planted_faults, run_laws

pytestmark = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason="runs are forked"),
    pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler for the library that makes calls fail"),
]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("strategy", "only"),
    [
        ("one", r"write 0/.student.*full"),
        ("one", "rename 0/distill/checkpoints"),
        ("ddp", "fsync 0/distill/checkpoints"),
        ("zero2", "open 0/distill/checkpoints"),
        ("shards", "read 2/clips/shard-000003.*(stale|gone)$"),
    ],
)
def test_whatever_call_fails_no_acknowledged_save_is_lost(tmp_path: Path, strategy: str, only: str) -> None:
    if strategy == "zero2":
        pytest.importorskip("deepspeed")
    found = disk_faults.campaign(tmp_path, strategy, share=0.3 if strategy == "one" else 0.06, only=only)
    assert found["runs"] > 0 and found["wrong"] == []


def test_calls_that_differ_in_the_iteration_alone_are_sampled(tmp_path: Path) -> None:
    calls = [f"write 0/checkpoints/0000000{i}/state.ckpt" for i in range(1, 8)] + ["open 1/config.yaml"]
    (tmp_path / "calls").write_text("\n".join(calls))
    found = disk_faults.sampled(tmp_path / "calls", rank=1)
    assert [(f.call, f.nth, f.rank) for f in found] == [(calls[i], 1, 1) for i in (0, 3, 6, 7)]
    every = list(disk_faults.faults(found, 1.0, ""))
    assert len(every) == 4 * 3 + 3, "a disk that stays full matters to what writes"
    assert list(disk_faults.faults(found, 1.0, "nothing else")) == []
    data = list(disk_faults.faults([disk_faults.Fault("read 2/clips/a.tar", 1, "")], 1.0, ""))
    assert [f.kind for f in data] == list(disk_faults.READING), "what is only read cannot be full"


@pytest.mark.parametrize("planted", planted_faults.PLANTS, ids=lambda planted: planted.letter)
def test_errors_of_old_can_still_be_planted(planted: planted_faults.Plant) -> None:
    """`make faults` plants them, and the instrument has to see each."""
    for name, old, new in planted.changes:
        content = (planted_faults.ROOT / name).read_text()
        assert old in content and old != new, f"{name} has no {old!r} any more: plant the error otherwise"


@pytest.mark.parametrize(
    ("calls", "wrong"),
    [
        (["fsync 0/.a.safetensors.part", "rename 0/.a.safetensors.part", "fsync 0"], ""),
        (["rename 0/.a.safetensors.part", "fsync 0"], "before its bytes"),
        (["fsync 0/.a.safetensors.part", "rename 0/.a.safetensors.part", "open 0/b"], "its folder is not"),
        (2 * ["fsync 0/.a.safetensors.part", "rename 0/.a.safetensors.part", "fsync 0"], ""),
        (["fsync 0/.a.safetensors.part", *2 * ["rename 0/.a.safetensors.part", "fsync 0"]], "before its bytes"),
    ],
)
def test_a_rename_that_a_loss_of_power_could_take_back_is_seen(tmp_path: Path, calls: list[str], wrong: str) -> None:
    (tmp_path / "calls").write_text("\n".join(calls))
    found = run_laws.unsynced(tmp_path / "calls")
    assert wrong in found and bool(wrong) == bool(found)
