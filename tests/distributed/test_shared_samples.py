"""Ranks that share samples, two and four processes over gloo, train and stream as one process does."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from adastate.config import systems
from tests.support.ports import free_port
from tests.support.sequence_worker import CASES, RESUMED, flat, relative
from tests.support.tiny import ROOT

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[int, list[dict[str, Any]]]:
    """By number of processes, what each of them found out. Two come first: the others go on from their checkpoints."""
    pytest.importorskip("deepspeed")
    out = tmp_path_factory.mktemp("shared")
    return {world: launch(world, out) for world in (2, 4, 1)}


def launch(world: int, out: Path) -> list[dict[str, Any]]:
    env = {
        **os.environ, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "NODE_RANK": "0",
        "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive", "CUDA_VISIBLE_DEVICES": "", "DS_ACCELERATOR": "cpu",
        "PYTHONWARNINGS": "ignore",
    }  # fmt: skip
    logs = [out / f"log{rank}of{world}.txt" for rank in range(world)]
    ranks = []
    for rank, path in enumerate(logs):
        with path.open("w") as log:
            command = [sys.executable, "-m", "tests.support.sequence_worker", str(rank), str(world), str(out)]
            ranks.append(
                subprocess.Popen(
                    command, env={**env, "LOCAL_RANK": str(rank)}, cwd=ROOT, stdout=log, stderr=subprocess.STDOUT
                )
            )
    try:
        codes = [process.wait(timeout=900) for process in ranks]
    finally:
        for process in ranks:
            process.kill()
    assert codes == [0] * world, "\n".join(path.read_text()[-3000:] for path in logs)
    return [torch.load(out / f"{world}-{rank}.pt", weights_only=False) for rank in range(world)]


@pytest.mark.parametrize("world", [2, 4])
def test_clips_have_the_flows_and_gradients_of_one_rank(found: Any, world: int) -> None:
    for mine in found[world]:
        for name, differ in mine["clips"].items():
            assert differ["flow"] < 2e-5, name
            assert max(differ["gradient"], differ["of the input"]) < 1e-4, name


@pytest.mark.parametrize("world", [2, 4])
@pytest.mark.parametrize("system", systems.system_names())
def test_every_system_streams_as_one_rank_does_and_remembers_a_share(found: Any, world: int, system: str) -> None:
    for mine in found[world]:
        for kind in ("slab", "tensors"):
            told = mine["streams"][f"{system} {kind}"]
            assert told["stream"] < 2e-5, kind
            assert told["bytes"][0] == told["bytes"][1] > 0, kind


def curve(ranks: list[dict[str, Any]], name: str) -> list[dict[str, float]]:
    """Losses and gradient norms, the mean over ranks: each logs the loss of its own samples."""
    each = [found[name]["curve"] for found in ranks]
    keys = [key for key in each[0][0] if key.endswith(("/loss", "/gradient_norm"))]
    return [{key: sum(at[key] for at in both) / len(both) for key in keys} for both in zip(*each, strict=True)]


def same(a: list[dict[str, float]], b: list[dict[str, float]]) -> None:
    assert len(a) == len(b) > 0
    for mine, theirs in zip(a, b, strict=True):
        assert mine == pytest.approx(theirs, rel=1e-5)


@pytest.mark.parametrize("world", [2, 4])
@pytest.mark.parametrize("name", CASES)
def test_a_stage_has_the_losses_gradients_and_weights_of_one_rank(found: Any, world: int, name: str) -> None:
    alone = found[1][0][name]
    same(curve(found[world], name), curve(found[1], name))
    for mine in (each[name] for each in found[world]):
        assert mine["gradients"] and len(mine["gradients"]) == len(alone["gradients"])
        for a, b in zip(mine["gradients"], alone["gradients"], strict=True):
            assert a.keys() == b.keys() and relative(flat(a), flat(b)) < 1e-4
        assert relative(flat(mine["average"]), flat(alone["average"])) < 1e-6


@pytest.mark.parametrize("world", [1, 4])
@pytest.mark.parametrize("name", RESUMED)
def test_a_run_of_degree_two_goes_on_at_another(found: Any, world: int, name: str) -> None:
    whole, rest = found[1][0][name], f"{name} resumed"
    same(curve(found[world], rest), curve(found[1], name)[RESUMED[name] :])
    for each in found[world]:
        assert relative(flat(each[rest]["average"]), flat(whole["average"])) < 1e-6
