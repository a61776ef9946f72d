"""Law 11: one training step on 1 process is the same step on 2 processes with half the batch each."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests.support.law11_worker import gradients
from tests.support.ports import free_port
from tests.support.rig import distance

ROOT = Path(__file__).parents[2]
Steps = list[dict[str, Tensor]]


def distances(a: Steps, b: Steps) -> list[float]:
    """For each optimiser's step of the iteration."""
    return [distance(x, y) for x, y in zip(a, b, strict=True)]


def two_processes(folder: Path) -> list[dict[str, Steps]]:
    """The runs of either rank, over gloo."""
    port = free_port()
    env = {
        **os.environ,
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "NODE_RANK": "0",
        "OMP_NUM_THREADS": "1",
        "CUDA_VISIBLE_DEVICES": "",
        "PYTHONWARNINGS": "ignore",
    }
    command = [sys.executable, "-m", "tests.support.law11_worker"]
    ranks = [
        subprocess.Popen(
            [*command, str(rank), "2", str(folder)],
            env={**env, "LOCAL_RANK": str(rank)},
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in (0, 1)
    ]
    try:
        told = [process.communicate(timeout=300)[0] for process in ranks]
    finally:
        for process in ranks:
            process.kill()
    assert [process.returncode for process in ranks] == [0, 0], "\n".join(told)
    return [torch.load(folder / f"rank{rank}.pt") for rank in (0, 1)]


@pytest.fixture(scope="module")
def one() -> Steps:
    return gradients(1)


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Steps]]:
    return two_processes(tmp_path_factory.mktemp("law11"))


def test_law_11_two_processes_have_the_gradients_of_one(one: Steps, ranks: list[dict[str, Steps]]) -> None:
    assert len(one) == 3, "the student's step and two of the critic's"
    for rank in ranks:
        assert distances(rank["whole"], one) == pytest.approx([0] * 3, abs=1e-5)


def test_law_11_holds_with_accumulation(one: Steps, ranks: list[dict[str, Steps]]) -> None:
    for rank in ranks:
        assert distances(rank["parts"], one) == pytest.approx([0] * 3, abs=1e-5)


def test_law_11_fails_where_randomness_knows_the_rank(one: Steps, ranks: list[dict[str, Steps]]) -> None:
    for rank in ranks:
        assert min(distances(rank["by rank"], one)) > 1e-2
