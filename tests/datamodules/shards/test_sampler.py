"""The law of order: what a sample number stands for follows from the data alone, and a run goes on where it stopped."""

from __future__ import annotations

import os
import subprocess
import sys
from itertools import islice
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lightning.pytorch as pl
import pytest
import torch

from adastate.encoders import TinyCodec
from datamodules.clips import ShardData
from datamodules.prompts import PromptData
from datamodules.trajectories import TrajectoryData
from datamodules.world_data import WorldData
from tests.datamodules import test_trajectories
from tests.datamodules.test_clips import only, write
from tests.support.cases import thinned
from tests.support.ports import free_port
from tests.support.resume_worker import Data, Notes, Saves, Stream, run, trainer

ROOT = Path(__file__).parents[3]
STEPS = 5


def make(kind: str, folder: Path, workers: int, batch: int = 3) -> Data:
    if kind == "prompts":
        (folder / "p.txt").write_text("".join(f"prompt {i}\n" for i in range(7)))
        return lambda: PromptData(str(folder / "p.txt"), batch=batch, workers=workers)
    if kind == "captions":
        return lambda: PromptData(batch=batch, workers=workers)
    if kind == "shards":
        if not (folder / "s").exists():
            write(folder / "s", 8)
        return lambda: ShardData(str(folder / "s"), batch=batch, workers=workers)
    if kind == "trajectories":
        if not (folder / "t").exists():
            test_trajectories.write(folder / "t", range(8))
        return lambda: TrajectoryData(str(folder / "t"), batch=batch, workers=workers)
    if kind == "world":
        return lambda: WorldData(video_frames=3, batch=batch, workers=workers)
    return lambda: WorldData(video_frames=3, batch=batch, clips=8, codec=TinyCodec("builtin"))


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize(
    "kind", thinned(["shards", "prompts", "trajectories", "captions", "world", "world latents"], every=2)
)
def test_a_run_stopped_at_any_step_goes_on_with_the_very_next_sample(tmp_path: Path, kind: str, workers: int) -> None:
    if workers and kind in ("captions", "world latents"):
        pytest.skip("captions are read as prompts are, and latents in memory are read by no worker")
    data, saves = make(kind, tmp_path, workers), Saves(tmp_path)
    whole = run(data(), Notes(STEPS), tmp_path, saves)
    assert [number for number, _ in whole] == list(range(3 * STEPS))
    for k, (checkpoint, iterations) in enumerate(saves.saved[:-1], 1):
        assert iterations == k
        told = torch.load(checkpoint, weights_only=True)[type(data()).__name__]
        assert told["cursor"] == 3 * k and told["epoch"] == 3 * k // told["data"].get("samples", 100)
        assert run(data(), Notes(STEPS), tmp_path, ckpt_path=checkpoint) == whole[3 * k :]


@pytest.mark.parametrize("workers", [0, 2])
def test_with_accumulation_a_run_goes_on_behind_its_last_whole_iteration(tmp_path: Path, workers: int) -> None:
    data, saves = make("shards", tmp_path, workers, batch=1), Saves(tmp_path)
    whole = run(data(), Notes(3, accumulate=3), tmp_path, saves)
    assert [number for number, _ in whole] == list(range(9)) and len(saves.saved) == 9
    for checkpoint, iterations in saves.saved[:-1]:
        assert torch.load(checkpoint, weights_only=True)["ShardData"]["cursor"] == 3 * iterations
        if workers == 0:
            module = Resumed(3, accumulate=3)
            assert run(data(), module, tmp_path, ckpt_path=checkpoint) == whole[3 * iterations :]


class Resumed(Notes):
    """Counts its micro batches anew, as a new process does."""

    def on_train_start(self) -> None:
        self.at = 0

    def training_step(self, batch: Any, batch_idx: int) -> None:
        super().training_step(batch, self.at)
        self.at += 1


def test_a_new_lightning_epoch_loses_no_batch_that_was_fetched_ahead(tmp_path: Path) -> None:
    for workers in (0, 1):
        data = make("shards", tmp_path, workers)()
        assert [n for n, _ in run(data, Notes(6), tmp_path, limit_train_batches=2)] == list(range(18))


class Seen(pl.Callback):
    """What the batches of a run were, and how many iterations were whole by their end."""

    def __init__(self) -> None:
        self.rows: list[int] = []

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        self.rows += batch.index.tolist()


def test_distillation_itself_goes_on_behind_its_last_whole_iteration(tmp_path: Path) -> None:
    """Three micro batches an iteration; saved within and behind iterations."""
    rig = pytest.importorskip("tests.support.rig")
    options = {"iterations": 2, "global_batch": 3, "critic_updates": 1, "save_every": 100}
    saves, seen = Saves(tmp_path), Seen()
    trainer(tmp_path, saves, seen).fit(rig.tiny_distill(**options), datamodule=PromptData(batch=1))
    assert seen.rows == list(range(6)) and [done for _, done in saves.saved] == [0, 0, 1, 1, 1, 2]
    for checkpoint, done in saves.saved[1:5]:
        again = Seen()
        trainer(tmp_path, again).fit(rig.tiny_distill(**options), datamodule=PromptData(batch=1), ckpt_path=checkpoint)
        assert again.rows == list(range(3 * done, 6))


def test_a_checkpoint_that_tells_no_place_is_told(tmp_path: Path) -> None:
    saves = Saves(tmp_path)
    run(make("prompts", tmp_path, 0)(), Notes(2), tmp_path, saves)
    path = saves.saved[0][0]
    old = torch.load(path, weights_only=True)
    del old["PromptData"]
    torch.save(old, path)
    with pytest.warns(UserWarning, match="does not say where in the data it stopped"):
        assert run(make("prompts", tmp_path, 0)(), Notes(2), tmp_path, ckpt_path=path)[0][0] == 0


class Process:
    """Stands for the trainer of one of several processes."""

    def __init__(self, rank: int, world: int) -> None:
        self.global_rank, self.local_rank, self.world_size = rank, rank, world
        self.training, self.global_step = True, 0
        self.default_root_dir, self.ckpt_path = ".", None
        self.lightning_module = SimpleNamespace(automatic_optimization=True)
        self.strategy = SimpleNamespace(broadcast=lambda x: x, reduce_boolean_decision=lambda decision, all: decision)


def steps(data: pl.LightningDataModule, rank: int, world: int, count: int, state: dict[str, Any] | None) -> Any:
    """(the batches of `count` steps, the state after them), with one batch fetched ahead."""
    process: Any = Process(rank, world)
    data.trainer = process
    if state:
        data.load_state_dict(state)
    loader, got = iter(data.train_dataloader()), []
    ahead = next(loader)
    for _ in range(count):
        batch, ahead = data.on_before_batch_transfer(ahead, 0), next(loader)
        process.global_step += 1
        got.append(batch)
    return got, data.state_dict()


@pytest.mark.parametrize("kind", ["prompts", "shards", "trajectories", "world latents"])
@pytest.mark.parametrize("workers", [0, 1])
def test_the_world_may_change_its_size_between_runs(tmp_path: Path, kind: str, workers: int) -> None:
    """1 -> 2 -> 4 -> 1 processes, and more of them than there are shards."""
    if workers and kind != "shards":
        pytest.skip("the loader's workers are the same for every kind; shards show them")
    alone = [
        row
        for batch in islice(iter(make(kind, tmp_path, 0, batch=8)().train_dataloader()), 8)
        for row in zip(batch.index.tolist(), batch.prompts, strict=True)
    ]
    got: Stream = []
    state: dict[str, Any] | None = None
    for world in (1, 2, 4, 1):
        ranks = [steps(make(kind, tmp_path, workers, batch=4 // world)(), r, world, 3, state) for r in range(world)]
        assert all(told == ranks[0][1] for _, told in ranks), "every process could save it"
        state = ranks[0][1]
        for k in range(3):
            got += [row for b, _ in ranks for row in zip(b[k].index.tolist(), b[k].prompts, strict=True)]
    assert state is not None and state["cursor"] == 48
    assert got == alone[:48]


@pytest.mark.parametrize("workers", [0, 1])
def test_what_was_fetched_and_not_used_is_fetched_again(tmp_path: Path, workers: int) -> None:
    data, process = make("shards", tmp_path, workers)(), Process(0, 1)
    data.trainer = process  # type: ignore[assignment]
    loader = data.train_dataloader()
    ahead = list(islice(iter(loader), 3))
    data.on_before_batch_transfer(ahead[0], 0)
    process.global_step += 1
    assert next(iter(loader)).index.tolist() == [3, 4, 5]


def test_other_data_is_refused_by_what_differs(tmp_path: Path) -> None:
    _, state = steps(ShardData(write(tmp_path / "a", 8), batch=2), 0, 1, 2, None)
    moved = steps(ShardData(write(tmp_path / "b", 8), batch=4), 0, 1, 1, state)[0]
    assert moved[0].index.tolist() == [4, 5, 6, 7], "the same shards elsewhere, and another batch"
    for other, says in (
        (ShardData(write(tmp_path / "c", 9), batch=2), r"samples 8 -> 9, shards 2 -> 3, digest \w+ -> \w+"),
        (ShardData(str(tmp_path / "a"), batch=2, seed=3), r"\(seed 0 -> 3\)"),
        (make("prompts", tmp_path, 0)(), "kind shards of latents -> prompts"),
    ):
        with pytest.raises(ValueError, match=rf"stopped at sample 4 of other data .*{says}.*start a new run"):
            steps(other, 0, 1, 1, state)


def test_processes_that_see_different_data_end_together(tmp_path: Path) -> None:
    data, process = ShardData(write(tmp_path, 8), batch=2), Process(1, 2)
    process.strategy.broadcast = lambda identity: {**identity, "samples": 7}
    data.trainer = process  # type: ignore[assignment]
    with pytest.raises(ValueError, match="processes see different data"):
        data.train_dataloader()


@pytest.mark.slow
def test_two_processes_go_on_where_one_stopped_and_refuse_together(tmp_path: Path) -> None:
    shards = write(tmp_path / "shards", 20, change=only(3, 8, txt=b""))
    alone = [
        row
        for batch in islice(iter(ShardData(shards, batch=4, max_skipped_share=0.2).batches()), 6)
        for row in zip(batch.index.tolist(), batch.prompts, strict=True)
    ]
    saves = Saves(tmp_path)
    run(ShardData(shards, batch=4, max_skipped_share=0.2), Notes(2), tmp_path, saves)
    saves.saved[-1][0].rename(tmp_path / "start.ckpt")
    port = str(free_port())
    env = {**os.environ, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "NODE_RANK": "0", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "tests.support.resume_worker"]
    ranks = [
        subprocess.Popen(
            [*command, str(rank), str(tmp_path)],
            env={**env, "LOCAL_RANK": str(rank), "PYTHONWARNINGS": "ignore"},
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in (0, 1)
    ]
    try:
        told = [process.communicate(timeout=240)[0] for process in ranks]
    finally:
        for process in ranks:
            process.kill()
    assert [process.returncode for process in ranks] == [0, 0], "\n".join(told)
    parts = [torch.load(tmp_path / f"rank{rank}.pt") for rank in (0, 1)]
    rows = [parts[r]["stream"][2 * k : 2 * k + 2] for k in range(4) for r in (0, 1)]
    assert [row for part in rows for row in part] == alone[8:24]
    assert all("cannot be used" in part["refused"] for part in parts), [part["refused"] for part in parts]
    lines = (tmp_path / "skipped.jsonl").read_text().splitlines()
    assert len(lines) == len(set(lines)) == 2
