from __future__ import annotations

from itertools import islice
from pathlib import Path

import pytest
import torch
from torch import Tensor

from datamodules.shards.index import find_shards
from datamodules.shards.shard_error import ShardError
from datamodules.shards.shard_writer import ShardWriter, npy
from datamodules.tools.world_shards import write_world
from datamodules.trajectories import TrajectoryData, TrajectoryWriter, actions_by_number
from tests.support.sample_videos import StubCodec

LEVELS = [1000.0, 937.5, 0.0]


def trajectory(i: int) -> Tensor:
    return torch.arange(3.0).view(3, 1, 1, 1, 1).expand(3, 2, 4, 3, 3) + i


def write(out: Path, keys: range, per_shard: int = 4, levels: list[float] = LEVELS) -> str:
    with TrajectoryWriter(out, per_shard) as writer:
        for i in keys:
            if f"{i:04d}" not in writer.done_keys():
                writer.add(f"{i:04d}", trajectory(i), levels, f"prompt {i}", {"i": i})
    return str(out)


def test_trajectories_come_back_as_they_were_written(tmp_path: Path) -> None:
    batch = next(iter(TrajectoryData(write(tmp_path, range(6)), batch=6).train_dataloader()))
    assert batch.trajectory is not None and batch.latents is not None and batch.levels is not None
    assert batch.trajectory.dtype == torch.float32 and batch.trajectory.shape == (6, 3, 2, 4, 3, 3)
    assert batch.levels.tolist() == LEVELS
    assert torch.equal(batch.latents, batch.trajectory[:, -1])
    for row, prompt in zip(batch.trajectory, batch.prompts, strict=True):
        assert torch.equal(row, trajectory(int(prompt.removeprefix("prompt "))))
    assert sorted(batch.prompts) == [f"prompt {i}" for i in range(6)]


def test_the_global_order_does_not_depend_on_the_number_of_processes(tmp_path: Path) -> None:
    data = TrajectoryData(write(tmp_path, range(9)), batch=4)
    alone = [b.prompts for b in islice(iter(data.batches()), 5)]
    data.batch = 2
    ranks = [islice(iter(data.batches(r, 2)), 5) for r in range(2)]
    assert [a.prompts + b.prompts for a, b in zip(*ranks, strict=True)] == alone


def test_a_writer_goes_on_after_an_interruption(tmp_path: Path) -> None:
    write(tmp_path / "whole", range(7), per_shard=3)
    writer = TrajectoryWriter(tmp_path / "out", per_shard=3)
    with pytest.raises(KeyboardInterrupt), writer:
        for i in range(5):
            writer.add(f"{i:04d}", trajectory(i), LEVELS, f"prompt {i}", {"i": i})
        raise KeyboardInterrupt
    again = TrajectoryWriter(tmp_path / "out", per_shard=3)
    assert again.done_keys() == {"0000", "0001", "0002"}
    write(tmp_path / "out", range(7), per_shard=3)
    names = [path.name for path in find_shards(str(tmp_path / "whole"))]
    assert names == [f"shard-{i:06d}.tar" for i in range(3)]
    assert all((tmp_path / "out" / n).read_bytes() == (tmp_path / "whole" / n).read_bytes() for n in names)


def test_levels_are_the_same_for_a_whole_folder(tmp_path: Path) -> None:
    write(tmp_path, range(2))
    says = r"0007: its levels are \[1000.0, 0.0\], those in .* \[1000.0, 937.5, 0.0\]"
    with TrajectoryWriter(tmp_path) as writer, pytest.raises(ShardError, match=says):
        writer.add("0007", trajectory(7)[:2], [1000, 0], "p")


def test_sets_of_different_levels_are_not_mixed(tmp_path: Path) -> None:
    write(tmp_path / "a", range(3))
    write(tmp_path / "b", range(3), levels=[1000.0, 900.0, 0.0])
    with pytest.raises(
        ShardError, match=r"000\.tar: 0000 has the levels \[1000.0, 900.0, 0.0\], others have \[1000.0, 937.5"
    ):
        TrajectoryData(str(tmp_path / "*" / "*.tar"), batch=2).setup()


@pytest.mark.parametrize("facts", [b"{}", b'{"levels": [1000, 0]}'])
def test_a_trajectory_without_its_levels_is_refused(tmp_path: Path, facts: bytes) -> None:
    with ShardWriter(tmp_path, 4) as writer:
        writer.add("a", {"trajectory.npy": npy(trajectory(0)), "txt": b"p", "json": facts})
    with pytest.raises(ShardError, match=r"a has the levels (None|\[1000, 0\]), not 3 of them in its \.json"):
        TrajectoryData(str(tmp_path), batch=1).setup()


def test_what_cannot_be_stored_is_refused_and_the_rest_is_kept(tmp_path: Path) -> None:
    with TrajectoryWriter(tmp_path) as writer:
        writer.add("good", trajectory(0), torch.tensor(LEVELS), "p")
        for wrong, levels, says in (
            (trajectory(0)[0], LEVELS, r"is \[J, F, C, H, W\] with J levels, got \[2, 4, 3, 3\] and 3 levels"),
            (trajectory(0), LEVELS[:2], r"got \[3, 2, 4, 3, 3\] and 2 levels"),
            (trajectory(0) * 1e5, LEVELS, "not finite in float16"),
        ):
            with pytest.raises(ShardError, match=says):
                writer.add("bad", wrong, levels, "p")
        with pytest.raises(ShardError, match="use letters, digits"):
            writer.add("a.b", trajectory(0), LEVELS, "p")
        with pytest.raises(ShardError, match=r"'good' is already in"):
            writer.add("good", trajectory(0), LEVELS, "p")
    assert TrajectoryWriter(tmp_path).done_keys() == {"good"}


@pytest.mark.filterwarnings("ignore:skipping")
def test_clips_are_no_trajectories(tmp_path: Path) -> None:
    write_world(tmp_path, 2, 3, codec=StubCodec())
    with pytest.raises(ShardError, match=r"holds world: write trajectories into another folder"):
        TrajectoryWriter(tmp_path)
    with pytest.raises(
        ShardError, match=r"has no trajectory\.npy, only json, latent\.npy, txt: the trajectories command"
    ):
        TrajectoryData(str(tmp_path), batch=1).setup()


def flown(i: int) -> Tensor:
    return (torch.arange(16).view(2, 8) % (i + 2) == 0).float()


def test_actions_come_back_and_older_shards_have_none(tmp_path: Path) -> None:
    with TrajectoryWriter(tmp_path / "new", 4) as writer:
        for i in range(6):
            writer.add(f"{i:04d}", trajectory(i), LEVELS, f"prompt {i}", {"i": i}, flown(i))
    batch = next(iter(TrajectoryData(str(tmp_path / "new"), batch=6).train_dataloader()))
    assert batch.actions is not None and batch.actions.dtype == torch.float32
    for row, prompt in zip(batch.actions, batch.prompts, strict=True):
        assert torch.equal(row, flown(int(prompt.removeprefix("prompt "))))
    unread = next(iter(TrajectoryData(str(tmp_path / "new"), batch=6, actions=False).train_dataloader()))
    assert unread.actions is None
    old = next(iter(TrajectoryData(write(tmp_path / "old", range(6)), batch=6).train_dataloader()))
    assert old.actions is None


def test_actions_have_a_row_for_every_frame(tmp_path: Path) -> None:
    says = r"a: its actions are \[3, 8\], and a trajectory of 2 frames has a row for each"
    with TrajectoryWriter(tmp_path) as writer, pytest.raises(ShardError, match=says):
        writer.add("a", trajectory(0), LEVELS, "p", actions=torch.zeros(3, 8))


def test_actions_of_clips_are_asked_for_by_number(tmp_path: Path) -> None:
    with ShardWriter(tmp_path, 4) as writer:
        for i in range(3):
            members = {"latent.npy": npy(trajectory(i)[0]), "txt": b"p", "json": b"{}"}
            rows = {} if i == 2 else {"actions.npy": npy(flown(i), torch.uint8)}
            writer.add(f"{i}", {**members, **rows})
    found = actions_by_number(str(tmp_path), 2)
    assert found is not None and torch.equal(found([1, 0, 3]), torch.stack([flown(1), flown(0), flown(0)]))
    with pytest.raises(ShardError, match="has 0 rows of actions for 2 frames, and others have them all"):
        found([2])
    assert actions_by_number(write(tmp_path / "none", range(2)), 2) is None
