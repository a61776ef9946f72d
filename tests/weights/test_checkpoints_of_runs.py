"""Checkpoints of runs: a file, or pieces of several processes, read as one."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
import torch

from adastate.runtime import atomic_folder
from adastate.weights import WeightsError, open_weights
from tests.support import kills
from tests.support.kills import Plan

PLANS = [
    pytest.param(Plan(iterations=2), id="one"),
    pytest.param(Plan("fsdp2", 2, iterations=2), id="fsdp2", marks=pytest.mark.slow),
    pytest.param(Plan("zero3", 2, iterations=2), id="zero3", marks=pytest.mark.slow),
]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="runs are forked")
@pytest.mark.parametrize("plan", PLANS)
def test_a_checkpoint_of_a_run_gives_whole_networks(tmp_path: Path, plan: Plan) -> None:
    if plan.strategy == "zero3":
        pytest.importorskip("deepspeed")
    kills.straight(plan, tmp_path)
    folder = atomic_folder.folders(tmp_path / "checkpoints")[-1]
    average, student, critic = (open_weights(folder, key=k) for k in (None, "student.net", "critic.net"))
    assert average.report.key == "student.ema.net"
    for found in (average, student, critic):
        assert found.report.fit.whole or "heads" in str(found.report.heads_from)
        assert all(bool(torch.isfinite(e.read()).all()) for e in found.entries.values())
    assert average.entries.keys() == student.entries.keys()
    if plan.strategy != "one":
        other = tmp_path / "one"
        kills.straight(Plan(iterations=2), other)
        expected = open_weights(atomic_folder.folders(other / "checkpoints")[-1])
        for name, entry in expected.entries.items():
            assert torch.allclose(entry.read(), average.entries[name].read(), atol=1e-5), name
        _refuses_files_of_two_saves(folder.with_name("00000001"), folder)
    largest = max((p for p in folder.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)
    content = bytearray(largest.read_bytes())
    content[len(content) // 2] ^= 1
    largest.write_bytes(content)
    for source in (folder, folder / "state.ckpt"):
        with pytest.raises(WeightsError, match=rf"{largest.name} has other bytes than were written; take another"):
            open_weights(source)


def _refuses_files_of_two_saves(earlier: Path, later: Path) -> None:
    """Also where a manifest has been made for the mixture."""
    mixed = later.with_name("mixed")
    shutil.copytree(later, mixed)
    shutil.copy(earlier / "state.ckpt/student-00001.pt", mixed / "state.ckpt")
    (mixed / atomic_folder.MANIFEST).unlink()
    with pytest.raises(WeightsError, match=r"mixes files of iteration 1 of run (\w+) and iteration 2 of run \1"):
        open_weights(mixed)
