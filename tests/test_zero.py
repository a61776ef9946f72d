"""DDP, ZeRO-1, 2 and 3, a sharded teacher, offload and FSDP2 train the same Distill: two processes over gloo."""

from __future__ import annotations

import importlib.util
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import Tensor

from tests.rig import distance

ROOT = Path(__file__).parent.parent
Found = dict[str, Any]
LONG = ("zero1", "zero2", "zero3", "zero3_teacher", "fsdp2")
SHORT = ("zero2_offload", "zero3_offload")

needs_deepspeed = pytest.mark.skipif(
    importlib.util.find_spec("deepspeed") is None, reason="DeepSpeed is not installed: pip install '.[dev]'"
)
pytestmark = [pytest.mark.slow, needs_deepspeed]


def launch(folder: Path, world: int, seconds: int = 600) -> None:
    """Runs tests.zero_worker in `world` processes."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
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
                    [sys.executable, "-m", "tests.zero_worker", str(rank), str(world), str(folder)],
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


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("zero")
    launch(made, 2)
    return made


@pytest.fixture(scope="module")
def ranks(folder: Path) -> list[Found]:
    return [torch.load(folder / f"rank{rank}.pt") for rank in (0, 1)]


def apart(a: dict[str, Tensor], b: dict[str, Tensor]) -> float:
    assert a.keys() == b.keys()
    return max(float((a[k] - b[k]).abs().max()) for k in a)


# ---- the same training


@pytest.mark.parametrize("kind", LONG + SHORT)
def test_one_step_has_the_gradients_and_losses_of_ddp(ranks: list[Found], kind: str) -> None:
    """Reduced, clipped, in float32: of the student and of the critic."""
    for found in ranks:
        for name in ("student", "critic"):
            assert distance(found[kind]["gradients"][name], found["ddp"]["gradients"][name]) < 1e-5
        assert found[kind]["curve"][0] == pytest.approx(found["ddp"]["curve"][0], rel=1e-5)


@pytest.mark.parametrize("kind", LONG)
def test_thirty_steps_have_the_losses_of_ddp(ranks: list[Found], kind: str) -> None:
    """Looser towards the end: Adam with beta1 = 0 makes a sign of a gradient near zero, and rounding decides it."""
    for found in ranks:
        curve, reference = found[kind]["curve"], found["ddp"]["curve"]
        assert len(curve) == len(reference) == found[kind]["iteration"] == 30
        for i, (a, b) in enumerate(zip(curve, reference, strict=True)):
            assert a == pytest.approx(b, rel=1e-5 if i < 2 else 1e-3), i


def test_stages_differ_by_nothing_but_rounding(ranks: list[Found]) -> None:
    kinds = {kind: ranks[0][kind]["weights"] for kind in ("ddp", *LONG)}
    for name in ("student", "critic"):
        assert apart(kinds["zero2"][name], kinds["zero1"][name]) == 0
        assert apart(kinds["zero3_teacher"][name], kinds["zero3"][name]) == 0, "sharding the teacher changes no bit"
        for kind in LONG:
            assert apart(kinds[kind][name], kinds["ddp"][name]) < 1e-3, kind


@pytest.mark.parametrize("kind", ("ddp", *LONG, *SHORT))
def test_all_ranks_hold_the_same_weights(ranks: list[Found], kind: str) -> None:
    for name, weights in ranks[0][kind]["weights"].items():
        assert apart(weights, ranks[1][kind]["weights"][name]) == 0, name


@pytest.mark.parametrize("kind", LONG)
def test_each_network_has_its_own_schedule(ranks: list[Found], kind: str) -> None:
    """Two steps of warm-up for the student, four for the critic, which steps in every iteration."""
    assert ranks[0][kind]["rates"] == ranks[0]["ddp"]["rates"]
    student, critic = zip(*ranks[0]["ddp"]["rates"][:5], strict=True)
    assert critic == pytest.approx((1e-3, 1.5e-3, 2e-3, 2e-3, 2e-3)) and student == pytest.approx((1e-3,) * 5)


@pytest.mark.parametrize("kind", ["zero1", "zero2", "zero3_teacher"])
def test_accumulation_is_one_step(ranks: list[Found], kind: str) -> None:
    """Two micro batches of one prompt, twice on two ranks, are the batch of four."""
    for found in ranks:
        for other in (found["ddp in parts"], found["ddp"]):
            for name in ("student", "critic"):
                assert distance(found[f"{kind} in parts"]["gradients"][name], other["gradients"][name]) < 1e-5
        assert found[f"{kind} in parts"]["iteration"] == 1 == found[f"{kind} in parts"]["updates"]


@pytest.mark.parametrize("kind", LONG + SHORT)
def test_the_average_on_shards_is_that_of_whole_weights(ranks: list[Found], kind: str) -> None:
    for found in ranks:
        average, reference = found[kind]["weights"]["student_average"], found[kind]["reference"]
        assert apart(average, reference) < 1e-6
        assert apart(average, found[kind]["weights"]["student"]) > 1e-4, "and it is an average"


@pytest.mark.parametrize("kind", ["zero1", "zero2", "zero3"])
def test_bf16_is_near_float32(ranks: list[Found], kind: str) -> None:
    half, full = ranks[0][f"{kind} bf16"]["curve"], ranks[0][kind]["curve"]
    for a, b in zip(half, full, strict=False):
        assert a == pytest.approx(b, rel=2e-2) and a != b


@pytest.mark.parametrize("kind", ["zero1", "zero2", "zero2_offload", "zero3", "zero3_offload", "fsdp2"])
def test_an_update_that_the_guard_forbids_leaves_no_trace(ranks: list[Found], kind: str) -> None:
    """Once between the backward passes of two micro batches, and once by the norm of both."""
    for found in ranks:
        for name, weights in found["ddp forbidden"]["weights"].items():
            assert apart(found[f"{kind} forbidden"]["weights"][name], weights) < 1e-5, name
            assert found[f"{kind} forbidden"]["iteration"] == 4


# ---- what must not happen


def test_ranks_that_draw_differently_all_stop_with_a_sentence(ranks: list[Found]) -> None:
    """Under ZeRO-3, where they would wait for each other for ever."""
    for found in ranks:
        assert found["ranks differ"].startswith("RuntimeError: the ranks differ in exit level: [0, 1] by rank")


def test_what_does_not_go_is_refused(ranks: list[Found]) -> None:
    for found in ranks:
        assert "no sharded checkpoint at" in found["no checkpoint"]
        assert "precision bf16-true" in found["unknown precision"]


@pytest.mark.parametrize(
    ("kwargs", "said"),
    [
        ({"stage": 0}, "stage 0: ZeRO has 1, 2 and 3"),
        ({"stage": 2, "shard_frozen": True}, "need stage 3, not 2"),
        ({"stage": 2, "offload_parameters": "cpu"}, "need stage 3, not 2"),
        ({"stage": 1, "offload_optimizer": "nvme", "nvme_path": "/x"}, "nvme needs stage 3, not 1"),
        ({"stage": 3, "offload_optimizer": "nvme"}, "needs nvme_path"),
    ],
)
def test_what_does_not_go_together(kwargs: dict[str, Any], said: str) -> None:
    from adastate.zero import ZeroStrategy

    with pytest.raises(ValueError, match=said):
        ZeroStrategy(**kwargs)


# ---- checkpoints


@pytest.mark.parametrize("kind", ["zero1", "zero2", "zero3", "fsdp2"])
def test_a_resumed_run_ends_with_the_same_bits(ranks: list[Found], kind: str) -> None:
    for found in ranks:
        resumed, unbroken = found[f"{kind} resumed"], found[kind]
        assert resumed["iteration"] == 30 and resumed["updates"] == unbroken["updates"] == 10
        assert [c["critic/loss"] for c in resumed["curve"]] == [c["critic/loss"] for c in unbroken["curve"][26:]]
        assert resumed["rates"] == unbroken["rates"][26:]
        for name in unbroken["weights"]:
            assert apart(resumed["weights"][name], unbroken["weights"][name]) == 0, name


@pytest.mark.parametrize("kind", ["zero1", "zero2", "zero3", "fsdp2"])
def test_one_process_reads_whole_weights_from_shards(folder: Path, ranks: list[Found], kind: str) -> None:
    from adastate.net import DiT
    from adastate.pieces import consolidate
    from tests.zero_worker import NET

    found, saved = consolidate(folder / kind), torch.load(folder / kind / "whole.pt")
    assert found.keys() == {"student", "critic", "student_average"} == saved.keys()
    for name, weights in found.items():
        assert apart(weights, saved[name]) == 0, name
        DiT(NET).load_state_dict(weights)


@pytest.fixture(scope="module")
def alone(folder: Path, ranks: list[Found]) -> Found:
    """What one process made of the checkpoints of two."""
    launch(folder, 1)
    return torch.load(folder / "alone.pt")


@pytest.mark.parametrize("kind", ["zero1 alone", "zero2 alone", "zero3 alone", "fsdp2 alone", "zero1 to zero3"])
def test_one_process_goes_on_where_two_were(ranks: list[Found], alone: Found, kind: str) -> None:
    whole, unbroken = alone[kind], ranks[0][kind.split()[0]]
    assert whole["iteration"] == 30 and whole["updates"] == 10 and whole["rates"] == unbroken["rates"][26:]
    for name in unbroken["weights"]:
        assert apart(whole["weights"][name], unbroken["weights"][name]) < 1e-4, name


@pytest.mark.parametrize(("was", "now"), [("zero1", "zero2"), ("zero2", "zero3"), ("zero3", "fsdp2")])
def test_another_stage_goes_on(ranks: list[Found], was: str, now: str) -> None:
    for found in ranks:
        for name, weights in found[was]["weights"].items():
            assert apart(found[f"{was} to {now}"]["weights"][name], weights) < 1e-4, name


def test_no_checkpoint_to_consolidate(tmp_path: Path) -> None:
    from adastate.pieces import consolidate

    with pytest.raises(FileNotFoundError, match="no sharded checkpoint at"):
        consolidate(tmp_path)


# ---- configs


@pytest.mark.parametrize("name", sorted(p.stem for p in (ROOT / "conf/zero").glob("*.yaml")))
def test_every_config_makes_its_strategy(name: str) -> None:
    from adastate.config import build, compose

    layers = ("base", "sizes/tiny", "stages/distill", f"zero/{name}")
    config = compose([ROOT / f"conf/{layer}.yaml" for layer in layers], ["run.dir=x"]).lightning["trainer"]
    strategy = config["strategy"]
    if isinstance(strategy, dict):
        import lightning.pytorch as pl

        made = build(strategy, pl.strategies.Strategy)
        if name.startswith("zero"):
            assert getattr(made, "stage", None) == int(name[4])
    else:
        assert strategy == "ddp_find_unused_parameters_true"


def test_the_configs_are_those_of_the_documentation() -> None:
    text = (ROOT / "docs/scale.md").read_text()
    for path in (ROOT / "conf/zero").glob("*.yaml"):
        assert f"conf/zero/{path.name}" in text, path.name
        assert yaml.safe_load(path.read_text())["trainer"]["strategy"]
