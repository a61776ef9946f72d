"""Who reads the networks of a run, and when."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning.pytorch.plugins.precision import HalfPrecision
from lightning.pytorch.strategies import DDPStrategy, SingleDeviceStrategy
from torch import nn

from adastate.distributed.network_reader import NetworkReader
from adastate.models import unread
from adastate.weights import load_network, save_weights
from tests.distributed.test_zero import needs_deepspeed
from tests.support.ports import free_port
from tests.support.tiny import SIZE, random_net

ROOT = Path(__file__).parents[2]


def reader_of(strategy: Any, folder: Path, precision: Any = None) -> Any:
    """A network of a file after the set-up of a run with this strategy."""
    save_weights(random_net(), folder / "net.safetensors")
    module: Any = nn.Module()
    with unread.reading_later():
        module.net = load_network(SIZE, str(folder / "net.safetensors"))
    NetworkReader().setup(SimpleNamespace(strategy=strategy, precision_plugin=precision), module, "fit")  # type: ignore[arg-type]
    return module.net


@pytest.mark.parametrize("strategy", [SingleDeviceStrategy(), DDPStrategy(parallel_devices=[torch.device("cpu")])])
def test_networks_are_read_to_the_device_of_their_process(strategy: Any, tmp_path: Path) -> None:
    strategy.root_device  # noqa: B018 - known from here on
    assert not any(p.is_meta for p in reader_of(strategy, tmp_path).parameters())


def test_where_all_weights_are_halved_they_come_so(tmp_path: Path) -> None:
    net = reader_of(SingleDeviceStrategy(), tmp_path, HalfPrecision("bf16-true"))
    assert net.weight_dtype is torch.bfloat16


def test_a_strategy_that_cuts_networks_reads_them_itself(tmp_path: Path) -> None:
    assert all(p.is_meta for p in reader_of(SimpleNamespace(brings_networks=True), tmp_path).parameters())


@needs_deepspeed
@pytest.mark.slow
def test_read_later_two_processes_train_the_same_and_hold_less(tmp_path: Path) -> None:
    """FSDP2 keeps a process's own half from the start, of networks that lie in the host's memory here."""
    env = os.environ | {
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "NODE_RANK": "0", "OMP_NUM_THREADS": "1",
        "OMP_WAIT_POLICY": "passive", "CUDA_VISIBLE_DEVICES": "", "DS_ACCELERATOR": "cpu", "PYTHONWARNINGS": "ignore",
    }  # fmt: skip
    worker = [sys.executable, "-m", "tests.support.reading_worker"]
    ranks = [subprocess.Popen([*worker, str(r), "2", str(tmp_path)], cwd=ROOT, env=env) for r in range(2)]
    codes = [rank.wait(timeout=600) for rank in ranks]
    assert max(codes) < 128, "a forked run was aborted in native code"  # torch's thread pools, seen once
    assert codes == [0, 0]
    for kind in ("fsdp2", "zero2 bf16"):
        for rank in range(2):
            once, later = (
                torch.load(tmp_path / f"{kind} {when} {rank}.pt", weights_only=False) for when in ("at once", "later")
            )
            for name in ("student", "critic", "average"):
                both = zip(once["weights"][name].values(), later["weights"][name].values(), strict=True)
                assert all(torch.equal(a, b) for a, b in both), f"{kind}: the {name}"
            assert once["weights"]["dtype"] == later["weights"]["dtype"]
            assert later["held"] < (0.65 if kind == "fsdp2" else 0.9) * once["held"], kind
