"""`adastate trajectories`: shares of several processes, killed and gone on with, and what it is told wrong."""

from __future__ import annotations

import io
import json
import os
import random
import signal
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from adastate.inference.write_trajectories import Order, owner, write_share
from adastate.launch import process_group
from adastate.main import main
from adastate.models.video_network import Size
from adastate.runtime.ranks import Rank
from adastate.weights import save_weights
from datamodules.shards.index import read_shard
from datamodules.shards.shard_error import ShardError
from datamodules.shards.shard_writer import ShardWriter, npy
from datamodules.tools.world_shards import write_world
from datamodules.trajectories import TrajectoryData
from datamodules.worlds.world_clips import world_prompts
from tests.support.cases import thinned
from tests.support.lmdbs import write_pairs
from tests.support.tiny import normal, random_net

ORDER = Order(23, [1000.0, 0.0], {"seed": 0}, {"seed": 0}, per_shard=3)
CONFIG = ["--config", "conf/base.yaml", "--config", "conf/sizes/tiny.yaml"]
SMALL = ["--size.width=32", "--size.layers=1", "--size.ffn=64"]


def path(i: int) -> Tensor:
    return torch.full((2, 2, 1, 2, 2), float(i))


def made(rows: list[int]) -> Iterator[tuple[int, Tensor, str]]:
    yield from ((i, path(i), f"prompt {i}") for i in rows)


def there(out: Path) -> Counter[str]:
    return Counter(sample.key for shard in out.glob("shard-*.tar") for sample in read_shard(shard))


WANTED = Counter(f"{i:08d}" for i in range(ORDER.count))


def test_every_process_has_the_same_share_and_a_lost_one_s_is_spread_over_all() -> None:
    for world in (1, 2, 5, 8):
        assert Counter(owner(i, world) for i in range(40 * world)) == dict.fromkeys(range(world), 40)
    lost = [i for i in range(800) if owner(i, 4) == 3]
    spread = Counter(owner(i, 2) for i in lost)
    assert len(spread) == 2 and min(spread.values()) > 70, "of 200"


@pytest.mark.parametrize("world", [1, 2, 5])
def test_the_shares_are_everything_once_with_one_index(tmp_path: Path, world: int) -> None:
    whole = [write_share(ORDER, made, tmp_path, Rank(r, world), batch=4) for r in range(world)]
    assert whole == [False] * (world - 1) + [True], "the last one finds all"
    assert there(tmp_path) == WANTED
    assert sorted(p.name for p in tmp_path.iterdir() if p.suffix != ".tar") == ["index.json"]
    index = json.loads((tmp_path / "index.json").read_text())
    assert sum(s["samples"] for s in index["shards"]) == ORDER.count
    assert index["settings"] == {"kind": "trajectories", "levels": [1000.0, 0.0], "seed": 0}
    data = TrajectoryData(str(tmp_path), batch=ORDER.count)
    batch = next(iter(data.train_dataloader()))
    assert batch.trajectory is not None
    for row, prompt in zip(batch.trajectory, batch.prompts, strict=True):
        assert torch.equal(row, path(int(prompt.removeprefix("prompt "))))


def killed_share(out: Path, rank: Rank, after: int) -> None:
    """A process that writes its share and dies by SIGKILL after so many trajectories."""
    if (child := os.fork()) == 0:
        count = 0

        def dying(rows: list[int]) -> Iterator[tuple[int, Tensor, str]]:
            nonlocal count
            for item in made(rows):
                if count == after:
                    os.kill(os.getpid(), signal.SIGKILL)
                count += 1
                yield item

        write_share(ORDER, dying, out, rank, batch=2)
        os._exit(0)
    os.waitpid(child, 0)


@pytest.mark.parametrize("seed", [0, *(pytest.param(n, marks=pytest.mark.slow) for n in range(1, 6))])
def test_killed_at_any_time_and_gone_on_with_by_any_number_it_is_everything_once(tmp_path: Path, seed: int) -> None:
    chance = random.Random(seed)
    for _ in range(5):
        world = chance.randint(1, 4)
        for rank in chance.sample(range(world), world):
            killed_share(tmp_path, Rank(rank, world), chance.randint(0, 9))
        assert max(there(tmp_path).values(), default=1) == 1
    world = chance.randint(1, 3)
    whole = [write_share(ORDER, made, tmp_path, Rank(rank, world), batch=4) for rank in range(world)]
    assert whole[-1] and there(tmp_path) == WANTED
    listed = {entry["name"] for entry in json.loads((tmp_path / "index.json").read_text())["shards"]}
    assert listed == {p.name for p in tmp_path.glob("*.tar")}
    assert not list(tmp_path.glob("*.tmp")) and not list(tmp_path.glob("index-*"))


def test_a_damaged_shard_is_made_again_by_whoever_took_over_its_process(tmp_path: Path) -> None:
    for rank in range(4):
        write_share(ORDER, made, tmp_path, Rank(rank, 4), batch=4)
    victim = next(tmp_path.glob("shard-003-*.tar"))
    victim.write_bytes(victim.read_bytes()[:700])
    with pytest.warns(UserWarning, match="is removed, and its samples are recreated"):
        whole = [write_share(ORDER, made, tmp_path, Rank(rank, 2), batch=4) for rank in (1, 0)]
    assert whole[-1] and there(tmp_path) == WANTED


def test_what_was_made_in_another_way_is_not_mixed_in(tmp_path: Path) -> None:
    write_share(ORDER, made, tmp_path, Rank(0, 2), batch=4)
    other = Order(23, [1000.0, 0.0], {"seed": 1}, {}, 3)
    with pytest.raises(ShardError, match="holds trajectories made with seed 0, not 1: write others into another"):
        write_share(other, made, tmp_path, Rank(1, 2), batch=4)


def test_two_runs_at_once_are_told(tmp_path: Path) -> None:
    write_share(ORDER, made, tmp_path, Rank(0, 2), batch=4)
    for shard in list(tmp_path.glob("shard-000-*.tar")):
        (tmp_path / shard.name.replace("-000-", "-007-")).write_bytes(shard.read_bytes())
    with pytest.raises(ShardError, match=r"is in shard-000-000000.tar and in shard-007-000000.tar, so two runs"):
        write_share(ORDER, made, tmp_path, Rank(1, 2), batch=4)


# ---- the command


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights of a teacher and of an autoregressive network, small and random."""
    folder = tmp_path_factory.mktemp("run")
    size = Size(width=32, layers=1, heads=4, ffn=64, channels=16, text_width=64, text_tokens=16, time_embedding_dim=64)
    for seed, name in enumerate(("teacher", "ar")):
        save_weights(random_net(size, seed), folder / f"{name}.safetensors")
    return folder


def command(run: Path, *words: str) -> list[str]:
    common = [*CONFIG, *SMALL, "--precision.compute_dtype=float32", f"--run.dir={run}"]
    return ["trajectories", *common, f"--teacher.weights={run}/teacher.safetensors", "--steps", "4", *words]


def rows(out: Path) -> dict[str, tuple[Tensor, str]]:
    samples = [sample for shard in sorted(out.glob("*.tar")) for sample in read_shard(shard)]
    return {s.key: (_npy(s.read("trajectory.npy")), s.read("txt").decode()) for s in samples}


def _npy(data: bytes) -> Tensor:
    return torch.from_numpy(np.load(io.BytesIO(data))).float()


@pytest.mark.parametrize("words", thinned([(), ("--solver", "unipc"), ("--teacher", "causal")], every=3))
def test_the_same_seed_gives_the_same_paths_whatever_batch_and_processes(
    run: Path, tmp_path: Path, words: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    main(command(run, *words, "--clips", "6", "--out", str(tmp_path / "alone")))
    for rank in range(2):
        for name, value in {"RANK": rank, "WORLD_SIZE": 2, "LOCAL_RANK": rank}.items():
            monkeypatch.setenv(name, str(value))
        main(command(run, *words, "--clips", "6", "--batch", "2", "--out", str(tmp_path / "two")))
    alone, two = rows(tmp_path / "alone"), rows(tmp_path / "two")
    assert alone.keys() == two.keys() and len(alone) == 6
    for key, (entries, prompt) in alone.items():
        assert entries.shape == (5, 7, 16, 8, 8) and prompt == two[key][1]
        assert torch.allclose(entries, two[key][0], atol=4e-3), key


@pytest.mark.slow
def test_devices_are_processes_of_this_machine(run: Path, tmp_path: Path) -> None:
    main(command(run, "--clips", "4", "--devices", "2", "--out", str(tmp_path)))
    assert {p.name for p in tmp_path.iterdir()} == {"index.json", "shard-000-000000.tar", "shard-001-000000.tar"}
    with pytest.raises(SystemExit, match=r"process [01] of 2 ended with 2; completed work is kept"):
        process_group.processes(["no such command"], 2)


def test_a_causal_teacher_after_real_clips_is_what_the_initialisation_learns_from(run: Path, tmp_path: Path) -> None:
    write_world(tmp_path / "clips", 3, 21)
    out = tmp_path / "out"
    words = ["--teacher", "causal", "--past", str(tmp_path / "clips"), "--clips", "4", "--out", str(out)]
    main(command(run, *words, "--levels", "900", "--steps", "6"))
    index = json.loads((out / "index.json").read_text())
    assert index["settings"]["levels"][-2:] == [0.0, 0.0] and len(index["settings"]["levels"]) == 7
    assert index["settings"]["past"] == "clips"
    batch = next(iter(TrajectoryData(str(out), batch=4).train_dataloader()))
    assert batch.trajectory is not None and batch.levels is not None and batch.latents is not None
    assert batch.trajectory.shape == (4, 6, 7, 16, 8, 8) and batch.levels[-1] == 0 and batch.levels[-2] > 0
    assert not torch.allclose(batch.latents, batch.trajectory[:, -1], atol=0.1), "the past is not the path's end"
    again = [i for i, prompt in enumerate(batch.prompts) if batch.prompts.count(prompt) == 2]
    assert torch.equal(*(batch.latents[i] for i in again)), "three clips, so the fourth path is after the first clip"
    assert not torch.allclose(*(batch.trajectory[i, -1] for i in again), atol=0.1), "from other noise"


def test_a_teacher_that_can_be_steered_flies_as_the_world_does(run: Path, tmp_path: Path) -> None:
    """Of older weights its layer is zeros; those that were not made for the world's actions have no use for them."""
    steered = ["--run.world=flight", "--size.actions=8", "--clips", "2"]
    main(command(run, *steered, "--out", str(tmp_path / "flown")))
    batch = next(iter(TrajectoryData(str(tmp_path / "flown"), batch=2).train_dataloader()))
    expected = world_prompts(1, [0, 1], 7, "flight")
    order = [batch.prompts.index(prompt) for prompt in expected.prompts]
    assert batch.actions is not None and expected.actions is not None
    assert torch.equal(batch.actions[order], expected.actions.float()) and batch.actions.shape == (2, 7, 8)
    main(command(run, "--run.world=flight", "--clips", "2", "--out", str(tmp_path / "plain")))
    plain = next(iter(TrajectoryData(str(tmp_path / "plain"), batch=2).train_dataloader()))
    assert plain.actions is None
    assert batch.trajectory is not None and plain.trajectory is not None
    same = [plain.prompts.index(prompt) for prompt in batch.prompts]
    assert torch.allclose(batch.trajectory, plain.trajectory[same], atol=4e-3), "a layer of zeros"


def test_actions_of_the_clips_before_it_steer_a_causal_teacher(run: Path, tmp_path: Path) -> None:
    clips = world_prompts(1, range(3), 7, "flight")
    assert clips.actions is not None
    with ShardWriter(tmp_path / "clips", 4) as writer:
        for i, (prompt, rows) in enumerate(zip(clips.prompts, clips.actions, strict=True)):
            members = {"latent.npy": npy(normal(7, 16, 8, 8, seed=i)), "txt": prompt.encode(), "json": b"{}"}
            writer.add(f"{i}", {**members, "actions.npy": npy(rows, torch.uint8)})
    words = ["--teacher", "causal", "--past", str(tmp_path / "clips"), "--clips", "4", "--size.actions=8"]
    main(command(run, *words, "--out", str(tmp_path / "out")))
    batch = next(iter(TrajectoryData(str(tmp_path / "out"), batch=4).train_dataloader()))
    assert batch.actions is not None
    for prompt, rows in zip(batch.prompts, batch.actions, strict=True):
        assert torch.equal(rows, clips.actions[clips.prompts.index(prompt)].float())


def test_published_pairs_become_shards(run: Path, tmp_path: Path) -> None:
    pytest.importorskip("lmdb")
    pairs = write_pairs(tmp_path / "lmdb", 5, (5, 7, 16, 8, 8))
    words = ["--from-lmdb", str(tmp_path / "lmdb"), "--levels", "1000", "750", "500", "250"]
    main(command(run, *words, "--out", str(tmp_path / "out")))
    batch = next(iter(TrajectoryData(str(tmp_path / "out"), batch=5).train_dataloader()))
    assert batch.levels is not None and batch.trajectory is not None
    assert batch.levels.tolist() == pytest.approx([1000.0, 937.5, 833.333, 625.0, 0.0], abs=1e-3)
    known = {told: expected for expected, told in pairs}
    assert set(batch.prompts) == known.keys()
    for row, prompt in zip(batch.trajectory, batch.prompts, strict=True):
        assert torch.equal(row, known[prompt])
    with pytest.raises(SystemExit, match="its pairs have 5 entries, --levels names 2"):
        main(command(run, *words[:2], "--levels", "1000", "500", "--out", str(tmp_path / "b")))
    with pytest.raises(SystemExit, match=r"its clips are \[7, 16, 8, 8\], this configuration has \[6, 16, 8, 8\]"):
        main(command(run, *words, "--rollout.frames=6", "--out", str(tmp_path / "c")))


def test_mistakes_are_answered_in_one_sentence(run: Path, tmp_path: Path) -> None:
    for words, sentence in (
        (["--clips", "0"], "--clips: 0 is too small; give at least 1"),
        (["--levels", "some"], "--levels takes timesteps, or the one word 'every'; got some"),
        (["--levels", "1200"], "a level lies above 0 and up to 1000"),
        (["--past", "x"], "--past goes with --teacher causal"),
        (["--teacher", "causal", "--weights", "none.pt"], "no weights of an autoregressive network at none.pt"),
        (["--teacher", "causal", "--past", str(tmp_path)], "no shard matches"),
        (["--from-lmdb", str(tmp_path), "--levels", "1000"], "no LMDB at"),
        (["--prompts", str(tmp_path / "none.txt")], "there is no file of prompts"),
    ):
        with pytest.raises(SystemExit, match=sentence):
            main(command(run, *words, "--out", str(tmp_path / "out")))


def test_a_finished_folder_is_left_alone(run: Path, tmp_path: Path) -> None:
    words = ["--clips", "2", "--out", str(tmp_path)]
    main(command(run, *words))
    before = {p: p.stat().st_mtime_ns for p in tmp_path.iterdir()}
    main(command(run, *words))
    assert before == {p: p.stat().st_mtime_ns for p in tmp_path.iterdir()}
