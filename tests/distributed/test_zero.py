"""DDP, ZeRO-1, 2 and 3, a sharded teacher, offload and FSDP2 train the same Distill: two processes over gloo.

All of it is `make test-slow`'s; `make test` sees two processes in tests/training/test_law11.py.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import Tensor

from tests.support.ports import free_port
from tests.support.rig import distance
from tests.support.zero_worker import EVERY, NET

ROOT = Path(__file__).parents[2]
Found = dict[str, Any]
needs_deepspeed = pytest.mark.skipif(
    importlib.util.find_spec("deepspeed") is None, reason="DeepSpeed is not installed: pip install '.[dev]'"
)
pytestmark = needs_deepspeed


def each(name: str, *argnames: str) -> Callable[[Any], Any]:
    """A slow test for every entry of fields of EVERY."""
    entries = [x for field in name.split() for x in getattr(EVERY, field)]
    rows = [(x,) if isinstance(x, str) else x for x in entries]
    every = pytest.mark.parametrize(argnames, rows, ids=[" to ".join(row) for row in rows])
    return lambda test: pytest.mark.slow(every(test))


def launch(folder: Path, world: int, seconds: int = 600) -> None:
    """Runs tests.support.zero_worker in `world` processes."""
    port = free_port()
    env = {
        **os.environ,
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "NODE_RANK": "0",
        "OMP_NUM_THREADS": "1",
        "OMP_WAIT_POLICY": "passive",
        "CUDA_VISIBLE_DEVICES": "",
        "DS_ACCELERATOR": "cpu",
        "PYTHONWARNINGS": "ignore",
    }
    ranks = []
    for rank in range(world):
        with (folder / f"log{rank}of{world}.txt").open("w") as log:
            ranks.append(
                subprocess.Popen(
                    [sys.executable, "-m", "tests.support.zero_worker", str(rank), str(world), str(folder)],
                    env={**env, "LOCAL_RANK": str(rank)}, cwd=ROOT, stdout=log, stderr=subprocess.STDOUT,
                )
            )  # fmt: skip
    try:
        codes = [process.wait(timeout=seconds) for process in ranks]
    finally:
        for process in ranks:
            process.kill()
    told = [(folder / f"log{rank}of{world}.txt").read_text()[-3000:] for rank in range(world)]
    assert codes == [0] * world, "\n".join(told)


class Runs:
    """Two processes with every strategy, and what one process made of their checkpoints; each when it is asked for."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @cached_property
    def ranks(self) -> list[Found]:
        launch(self.folder, 2)
        return [torch.load(self.folder / f"rank{rank}.pt") for rank in (0, 1)]

    @cached_property
    def alone(self) -> Found:
        assert self.ranks
        launch(self.folder, 1)
        return torch.load(self.folder / "alone.pt")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    return Runs(tmp_path_factory.mktemp("runs"))


@pytest.fixture
def ranks(runs: Runs) -> list[Found]:
    return runs.ranks


def apart(a: dict[str, Tensor], b: dict[str, Tensor]) -> float:
    assert a.keys() == b.keys()
    return max(float((a[k] - b[k]).abs().max()) for k in a)


# ---- the same training


@each("long short", "kind")
def test_one_step_has_the_gradients_and_losses_of_ddp(ranks: list[Found], kind: str) -> None:
    """Reduced, clipped, in float32: of the student and of the critic."""
    for found in ranks:
        for name in ("student", "critic"):
            assert distance(found[kind]["gradients"][name], found["ddp"]["gradients"][name]) < 1e-5
        assert found[kind]["curve"][0] == pytest.approx(found["ddp"]["curve"][0], rel=1e-5)


@each("long", "kind")
def test_all_steps_have_the_losses_of_ddp(runs: Runs, kind: str) -> None:
    """Looser towards the end: Adam with beta1 = 0 makes a sign of a gradient near zero, and rounding decides it."""
    for found in runs.ranks:
        curve, reference = found[kind]["curve"], found["ddp"]["curve"]
        assert len(curve) == len(reference) == found[kind]["iteration"] == EVERY.steps
        for i, (a, b) in enumerate(zip(curve, reference, strict=True)):
            assert a == pytest.approx(b, rel=1e-5 if i < 2 else 1e-3), i


@each("long", "kind")
def test_all_steps_end_near_the_weights_of_ddp(ranks: list[Found], kind: str) -> None:
    for name in ("student", "critic"):
        assert apart(ranks[0][kind]["weights"][name], ranks[0]["ddp"]["weights"][name]) < 1e-3


@pytest.mark.slow
def test_stages_differ_by_nothing_but_rounding(ranks: list[Found]) -> None:
    kinds = {kind: found["weights"] for kind, found in ranks[0].items() if kind in EVERY.long}
    for name in ("student", "critic"):
        assert apart(kinds["zero2"][name], kinds["zero1"][name]) == 0
        assert apart(kinds["zero3_teacher"][name], kinds["zero3"][name]) == 0, "sharding the teacher changes no bit"


@each("long short", "kind")
def test_all_ranks_hold_the_same_weights(ranks: list[Found], kind: str) -> None:
    for each_kind in (kind, "ddp"):
        for name, weights in ranks[0][each_kind]["weights"].items():
            assert apart(weights, ranks[1][each_kind]["weights"][name]) == 0, name


@each("long", "kind")
def test_each_network_has_its_own_schedule(ranks: list[Found], kind: str) -> None:
    """Two steps of warm-up for the student, four for the critic, which steps in every iteration."""
    assert ranks[0][kind]["rates"] == ranks[0]["ddp"]["rates"]
    student, critic = zip(*ranks[0]["ddp"]["rates"][:5], strict=True)
    assert critic == pytest.approx((1e-3, 1.5e-3, 2e-3, 2e-3, 2e-3)) and student == pytest.approx((1e-3,) * 5)


@each("parts", "kind")
def test_accumulation_is_one_step(ranks: list[Found], kind: str) -> None:
    """Two micro batches of one prompt, twice on two ranks, are the batch of four."""
    for found in ranks:
        for other in (found["ddp in parts"], found["ddp"]):
            for name in ("student", "critic"):
                assert distance(found[f"{kind} in parts"]["gradients"][name], other["gradients"][name]) < 1e-5
        assert found[f"{kind} in parts"]["iteration"] == 1 == found[f"{kind} in parts"]["updates"]


@each("long short", "kind")
def test_the_average_on_shards_is_that_of_whole_weights(ranks: list[Found], kind: str) -> None:
    for found in ranks:
        average, reference = found[kind]["weights"]["student_average"], found[kind]["reference"]
        assert apart(average, reference) < 1e-6
        assert apart(average, found[kind]["weights"]["student"]) > 1e-4, "and it is an average"


@each("half", "kind")
def test_bf16_is_near_float32(ranks: list[Found], kind: str) -> None:
    half, full = ranks[0][f"{kind} bf16"]["curve"], ranks[0][kind]["curve"]
    for a, b in zip(half, full, strict=False):
        assert a == pytest.approx(b, rel=2e-2) and a != b


@each("forbidden", "kind")
def test_an_update_that_the_guard_forbids_leaves_no_trace(ranks: list[Found], kind: str) -> None:
    """Once between the backward passes of two micro batches, and once by the norm of both."""
    for found in ranks:
        for name, weights in found["ddp forbidden"]["weights"].items():
            assert apart(found[f"{kind} forbidden"]["weights"][name], weights) < 1e-5, name
            assert found[f"{kind} forbidden"]["iteration"] == 4


# ---- what must not happen


@pytest.mark.slow
def test_ranks_that_draw_differently_all_stop_with_a_sentence(ranks: list[Found]) -> None:
    """Under ZeRO-3, where they would wait for each other for ever."""
    for found in ranks:
        assert found["ranks differ"].startswith("RuntimeError: the ranks differ in exit level: [0, 1] by rank")


@pytest.mark.slow
def test_what_does_not_go_is_refused(ranks: list[Found]) -> None:
    for found in ranks:
        assert "no sharded checkpoint at" in found["no checkpoint"]
        assert "precision bf16-true" in found["unknown precision"]


@pytest.mark.parametrize(
    ("kwargs", "said"),
    [
        ({"stage": 0}, "stage 0: ZeRO has stages 1, 2 and 3"),
        ({"stage": 2, "shard_frozen": True}, "need stage 3, not 2"),
        ({"stage": 2, "offload_parameters": "cpu"}, "need stage 3, not 2"),
        ({"stage": 1, "offload_optimizer": "nvme", "nvme_path": "/x"}, "nvme needs stage 3, not 1"),
        ({"stage": 3, "offload_optimizer": "nvme"}, "needs nvme_path"),
    ],
)
def test_what_does_not_go_together(kwargs: dict[str, Any], said: str) -> None:
    from adastate.distributed import ZeroStrategy

    with pytest.raises(ValueError, match=said):
        ZeroStrategy(**kwargs)


# ---- checkpoints


@each("saving", "kind")
def test_a_resumed_run_ends_with_the_same_bits(runs: Runs, kind: str) -> None:
    steps, saved = EVERY.steps, EVERY.saved
    for found in runs.ranks:
        resumed, unbroken = found[f"{kind} resumed"], found[kind]
        assert resumed["iteration"] == steps and resumed["updates"] == unbroken["updates"] == steps // 3
        assert [c["critic/loss"] for c in resumed["curve"]] == [c["critic/loss"] for c in unbroken["curve"][saved:]]
        assert resumed["rates"] == unbroken["rates"][saved:]
        for name in unbroken["weights"]:
            assert apart(resumed["weights"][name], unbroken["weights"][name]) == 0, name


@each("saving", "kind")
def test_one_process_reads_whole_weights_from_shards(runs: Runs, kind: str) -> None:
    from adastate.models.wan import DiT
    from adastate.weights.sharded_checkpoint import consolidate

    assert runs.ranks
    found, saved = consolidate(runs.folder / kind), torch.load(runs.folder / kind / "whole.pt")
    assert found.keys() == {"student", "critic", "student_average"} == saved.keys()
    for name, weights in found.items():
        assert apart(weights, saved[name]) == 0, name
        DiT(NET).load_state_dict(weights)


@each("alone", "was", "now")
def test_one_process_goes_on_where_two_were(runs: Runs, was: str, now: str) -> None:
    whole, unbroken, steps = runs.alone[f"{was} to {now}"], runs.ranks[0][was], EVERY.steps
    assert whole["iteration"] == steps and whole["updates"] == steps // 3
    assert whole["rates"] == unbroken["rates"][EVERY.saved :]
    for name in unbroken["weights"]:
        assert apart(whole["weights"][name], unbroken["weights"][name]) < 1e-4, name


@each("changes", "was", "now")
def test_another_stage_goes_on(ranks: list[Found], was: str, now: str) -> None:
    for found in ranks:
        for name, weights in found[was]["weights"].items():
            assert apart(found[f"{was} to {now}"]["weights"][name], weights) < 1e-4, name


def test_no_checkpoint_to_consolidate(tmp_path: Path) -> None:
    from adastate.weights.sharded_checkpoint import consolidate

    with pytest.raises(FileNotFoundError, match="no sharded checkpoint at"):
        consolidate(tmp_path)


# ---- configs


@pytest.mark.parametrize("name", sorted(p.stem for p in (ROOT / "conf/strategy").glob("*.yaml")))
def test_every_config_makes_its_strategy(name: str) -> None:
    from adastate.config.compose import build, compose

    layers = ("base", "sizes/tiny", "stages/distill", f"strategy/{name}")
    config = compose([ROOT / f"conf/{layer}.yaml" for layer in layers], ["run.dir=x"]).lightning["trainer"]
    import lightning.pytorch as pl

    made = build(config["strategy"], pl.strategies.Strategy)
    assert getattr(made, "sequence_parallel", None) == 1
    if name.startswith("zero"):
        assert getattr(made, "stage", None) == int(name[4])


def test_the_configs_are_those_of_the_documentation() -> None:
    text = (ROOT / "docs/reference/strategies.md").read_text()
    for path in (ROOT / "conf/strategy").glob("*.yaml"):
        assert f"conf/strategy/{path.name}" in text, path.name
        assert yaml.safe_load(path.read_text())["trainer"]["strategy"]
