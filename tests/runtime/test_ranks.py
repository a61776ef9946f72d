"""Which process this is, as launchers tell it."""

from __future__ import annotations

import pytest
import torch

from adastate.runtime.ranks import Rank, device_for, this_rank

TORCHRUN = {"RANK": "9", "WORLD_SIZE": "16", "LOCAL_RANK": "1"}
SRUN = {"SLURM_PROCID": "3", "SLURM_NTASKS": "4", "SLURM_LOCALID": "2"}


def test_torchrun_stands_before_slurm() -> None:
    assert this_rank(TORCHRUN) == this_rank(TORCHRUN | SRUN) == Rank(9, 16, 1)
    assert this_rank(SRUN) == Rank(3, 4, 2)
    assert this_rank({"SLURM_NTASKS": "4"}) == this_rank({}) == Rank(0, 1, 0)


def test_a_rank_out_of_its_world_is_told() -> None:
    with pytest.raises(ValueError, match="RANK is 2 with WORLD_SIZE 2"):
        this_rank({"RANK": "2", "WORLD_SIZE": "2"})


def test_each_process_has_a_gpu_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    current: list[torch.device] = []
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", current.append)
    assert [device_for("cuda", Rank(r, 4, r)).index for r in range(4)] == [0, 1, 0, 1]
    assert device_for("cuda:1", Rank(0, 4, 0)).index == 1
    assert [device.index for device in current] == [0, 1, 0, 1, 1], "what says cuda elsewhere means this one"
    assert device_for("cpu", Rank(1, 4, 1)).type == "cpu" and len(current) == 5
