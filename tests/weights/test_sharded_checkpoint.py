"""Checkpoints in pieces: put together from any number of ranks, refused when they are not whole or not plain data."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch

from adastate.runtime import atomic_folder
from adastate.weights import WeightsError, open_weights, sharded_checkpoint
from adastate.weights.sharded_checkpoint import REST, SavedShards, ShardedCheckpointError, WeightShard, consolidate
from tests.support import kills
from tests.support.kills import Plan


class Bomb:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.path,))


def write(folder: Path, cuts: tuple[int, ...] = (0, 5, 12)) -> torch.Tensor:
    """A weight of 12 elements, cut into what several ranks hold."""
    folder.mkdir(parents=True, exist_ok=True)
    weight = torch.arange(12.0)
    for rank, (first, last) in enumerate(pairwise(cuts)):
        parts = {"weight": weight[first:last], "exp_avg": -weight[first:last], "average": weight[first:last] / 2}
        told = {"shapes": {"a": (3, 4)}, "pieces": [["a", first, parts]], "scalars": {"step": torch.tensor(3.0)}}
        torch.save({**told, "groups": [{"lr": 0.1}]}, folder / f"student-{rank:05}.pt")
    torch.save({"loops": {}}, folder / REST)
    return weight.view(3, 4)


@pytest.mark.parametrize("cuts", [(0, 12), (0, 5, 12), (0, 1, 2, 3, 12)])
def test_whole_weights_from_any_number_of_ranks(tmp_path: Path, cuts: tuple[int, ...]) -> None:
    weight = write(tmp_path, cuts)
    found = consolidate(tmp_path)
    assert found.keys() == {"student", "student_average"}
    assert torch.equal(found["student"]["a"], weight) and torch.equal(found["student_average"]["a"], weight / 2)
    saved = SavedShards.open(tmp_path, "student")
    assert torch.equal(saved.cut("a", "exp_avg", 3, 6), -torch.arange(3.0, 9.0))
    assert saved.parts("a") == {"weight", "exp_avg", "average"} and float(saved.scalars["step"]) == 3


@pytest.mark.parametrize(("group", "device"), [({"fused": True}, "meta"), ({"fused": None}, "cpu"), ({}, "cpu")])
def test_counters_lie_where_the_step_reads_them(group: dict[str, Any], device: str) -> None:
    """A fused step of weights on a GPU takes the address of its counter, and that of one on the host crashes it."""
    step = torch.tensor(3.0)
    found = sharded_checkpoint.counters({"step": step}, torch.zeros(2, device="meta"), group)["step"]
    assert found.device.type == device and found is not step


class Held:
    """A whole network on one process, as a strategy tells of it."""

    averages = None

    def __init__(self, lr: float, **options: Any) -> None:
        self.weight = torch.nn.Parameter(torch.zeros(3, 4))
        self.optimizer = torch.optim.AdamW([self.weight], lr, **options)
        self.shapes = {"a": (3, 4)}
        self.pieces = [WeightShard("a", self.weight, 0, 12)]
        self.moved: dict[str, torch.Tensor] = {}

    @property
    def groups(self) -> list[dict[str, Any]]:
        return self.optimizer.param_groups

    def moments(self, piece: WeightShard) -> list[str]:
        return []

    def scalars(self) -> dict[str, torch.Tensor]:
        return {}

    def part(self, piece: WeightShard, part: str) -> torch.Tensor:
        return piece.param.detach().view(-1)

    def write(self, piece: WeightShard, part: str, value: torch.Tensor) -> None:
        if part == "weight":
            self.part(piece, part).copy_(value)
        else:
            self.moved[part] = value

    def count(self, scalars: dict[str, torch.Tensor]) -> None:
        self.moved |= scalars

    def bring(self, saved: SavedShards) -> None:
        pass


@pytest.mark.parametrize("own", [{"fused": True}, {"fused": False, "foreach": False}, {"foreach": True}])
def test_rates_are_the_checkpoint_s_and_how_a_step_is_computed_is_this_run_s(
    tmp_path: Path, own: dict[str, bool]
) -> None:
    weight = write(tmp_path)
    for other in ({"fused": True}, {"foreach": True}, {}):
        saved = Held(0.5, weight_decay=0.25, **other)
        with torch.no_grad():
            saved.weight.copy_(weight)
        sharded_checkpoint.write_shards(tmp_path, "critic", saved, 0)
        for name, lr in (("critic", 0.5), ("student", 0.1)):
            held = Held(0.9, **own)
            before = dict(held.groups[0])
            sharded_checkpoint.read_shards(tmp_path, name, held)
            (group,) = held.groups
            assert torch.equal(held.weight, weight) and group["lr"] == lr
            assert {k: group[k] for k in ("fused", "foreach")} == {k: before[k] for k in ("fused", "foreach")}
        assert torch.equal(held.moved["exp_avg"], -torch.arange(12.0)) and float(held.moved["step"]) == 3


SPOILT: dict[str, tuple[Callable[[Path], Any], str]] = {
    "a rank is missing": (lambda f: (f / "student-00001.pt").unlink(), "lacks a part of a from element 5 on"),
    "the first rank is missing": (lambda f: (f / "student-00000.pt").unlink(), "lacks a part of a from element 0 on"),
    "a rank twice": (
        lambda f: (f / "student-00002.pt").write_bytes((f / "student-00001.pt").read_bytes()),
        "lacks a part of a",
    ),
    "a weight that is not there": (
        lambda f: torch.save(
            {"shapes": {"a": (10**6, 10**9)}, "pieces": [], "scalars": {}, "groups": []}, f / "student-00001.pt"
        ),
        "lacks a part of a from element 5 on",
    ),
    "other content": (lambda f: torch.save([1, 2], f / "student-00001.pt"), "is not a rank's part of a student"),
    "half a file": (lambda f: os.truncate(f / "student-00001.pt", 300), "is not a whole PyTorch file"),
}


@pytest.mark.parametrize("how", SPOILT)
def test_what_is_not_whole_is_refused(tmp_path: Path, how: str) -> None:
    write(tmp_path)
    spoil, said = SPOILT[how]
    spoil(tmp_path)
    with pytest.raises(ShardedCheckpointError, match=said):
        SavedShards.open(tmp_path, "student")


@pytest.mark.parametrize("where", ["student-00001.pt", REST])
@pytest.mark.parametrize("form", ["torch", "pickle"])
def test_a_planted_object_is_not_run(tmp_path: Path, where: str, form: str) -> None:
    """By what resumes, and by `adastate weights`."""
    write(tmp_path / "state.ckpt")
    run, bomb = tmp_path / "it ran", {"loops": Bomb(tmp_path / "it ran"), "pieces": [Bomb(tmp_path / "it ran")]}
    target = tmp_path / "state.ckpt" / where
    torch.save(bomb, target) if form == "torch" else target.write_bytes(pickle.dumps(bomb))
    with pytest.raises(ShardedCheckpointError, match=r"is refused: it holds|is not a whole PyTorch file"):
        if where == REST:
            sharded_checkpoint.load_rest(tmp_path / "state.ckpt")
        else:
            consolidate(tmp_path / "state.ckpt")
    if where != REST:  # which `adastate weights` does not open
        with pytest.raises(WeightsError):
            open_weights(tmp_path)
    assert not run.exists()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="runs are forked")
@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["fsdp2", "zero2"])
@pytest.mark.parametrize("where", ["critic-00001.pt", REST])
def test_a_run_does_not_resume_from_one(tmp_path: Path, strategy: str, where: str) -> None:
    """With checksums that fit: whoever plants an object writes the manifest, too."""
    if strategy == "zero2":
        pytest.importorskip("deepspeed")
    plan = Plan(strategy, 2, iterations=2)
    kills.straight(Plan(strategy, 2, iterations=1), tmp_path)
    folder = tmp_path / "checkpoints/00000001"
    target = folder / "state.ckpt" / where
    held = torch.load(target, weights_only=True)
    torch.save({**held, "more": Bomb(tmp_path / "it ran")}, target)
    manifest = atomic_folder.checked_manifest(folder)
    (folder / atomic_folder.MANIFEST).unlink()
    atomic_folder.write_manifest(folder, {**manifest, "files": atomic_folder.digests(folder)})
    with pytest.raises(RuntimeError, match="a process ended"):
        kills.straight(plan, tmp_path)
    assert f"{where} is refused: it holds a Python object" in kills.tail(tmp_path)
    assert not (tmp_path / "it ran").exists()
