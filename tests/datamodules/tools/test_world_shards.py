"""Shards of the built-in worlds: what was rendered, whoever rendered it, and gone on with after an interruption."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from adastate.encoders import TinyCodec
from adastate.media.video import to_uint8
from datamodules.clips import ShardData
from datamodules.shards.decode import decode
from datamodules.shards.index import Sample, find_shards, read_shard
from datamodules.shards.shard_error import ShardError
from datamodules.tools.shards_command import main
from datamodules.tools.world_shards import write_world
from datamodules.worlds.flight.flight_clips import flight_batch
from datamodules.worlds.flyover import flight, render_flyover
from datamodules.worlds.kinds import WORLDS
from datamodules.worlds.world_clips import world_batch
from tests.support.sample_videos import StubCodec


def samples(out: Path) -> list[Sample]:
    return [sample for path in find_shards(str(out)) for sample in read_shard(path)]


def tars(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(out.glob("*.tar"))}


def test_world_shards_equal_the_rendered_world(tmp_path: Path) -> None:
    codec = TinyCodec(weights=None)
    write_world(tmp_path / "latents", 5, 6, seed=3, codec=codec, clips_per_shard=2)
    write_world(tmp_path / "video", 5, 6, seed=3)
    flights = [flight(3, i) for i in range(5)]
    rendered = render_flyover(flights, 6)
    for i, sample in enumerate(samples(tmp_path / "latents")):
        row = decode(sample, "latent.npy")
        assert torch.equal(row.content, codec.encode(rendered[i : i + 1])[0].half())
        assert row.prompt == flights[i].caption and row.facts == json.loads(json.dumps(flights[i].facts))
    for i, sample in enumerate(samples(tmp_path / "video")):
        assert torch.equal(decode(sample, "mp4").content, to_uint8(rendered[i])), "no loss"


def test_the_world_resumes_grows_and_shrinks(tmp_path: Path) -> None:
    write_world(tmp_path / "whole", 7, 3, codec=StubCodec(), clips_per_shard=2)
    with pytest.raises(KeyboardInterrupt):
        write_world(tmp_path / "out", 5, 3, codec=StubCodec(interrupted_after=3), clips_per_shard=2)
    codec = StubCodec()
    report = write_world(tmp_path / "out", 7, 3, codec=codec, clips_per_shard=2)
    assert (codec.encoded, report.kept, report.written) == (5, 2, 5)
    assert tars(tmp_path / "out") == tars(tmp_path / "whole")
    assert write_world(tmp_path / "out", 3, 3, codec=codec, clips_per_shard=2).clips == 3
    assert [sample.key for sample in samples(tmp_path / "out")] == [f"world-{i:07d}" for i in range(3)]
    write_world(tmp_path / "out", 3, 3, seed=1, codec=codec)
    assert decode(samples(tmp_path / "out")[0], "latent.npy").prompt == flight(1, 0).caption


@pytest.mark.parametrize("latents", [False, True])
def test_flights_come_back_from_shards_with_their_actions(tmp_path: Path, latents: bool) -> None:
    codec = StubCodec() if latents else None
    write_world(tmp_path, 6, 6, seed=2, codec=codec, clips_per_shard=4, kind="flight")
    made = flight_batch(2, range(6), 6)
    assert made.video is not None and made.actions is not None
    batch = next(iter(ShardData(str(tmp_path), batch=6, want="latents" if latents else "video").batches()))
    assert batch.actions is not None and batch.actions.shape == (6, 2, 8)
    for row, sample in enumerate(samples(tmp_path)):
        stored = decode(sample, "latent.npy" if latents else "mp4")
        at = next(
            i for i in range(6)
            if batch.prompts[i] == stored.prompt and torch.equal(batch.actions[i], made.actions[row])
        )  # fmt: skip
        assert stored.actions is not None and stored.actions.dtype == torch.uint8
        assert torch.equal(stored.actions.float(), made.actions[row]) and stored.prompt == made.prompts[row]
        assert stored.facts["mirrored"] == bool(row % 2) and stored.facts["biome"] in stored.prompt
        if latents:
            assert torch.equal(stored.content, StubCodec().encode(made.video[row][None])[0].half())
        else:
            assert batch.video is not None and (batch.video[at] - made.video[row]).abs().max() <= 1 / 127.5


@pytest.mark.slow
def test_whoever_renders_shards_are_the_same_to_the_byte(tmp_path: Path) -> None:
    for workers in (0, 1):
        codec = TinyCodec("builtin")
        write_world(tmp_path / str(workers), 20, 3, codec=codec, clips_per_shard=8, kind="flight", workers=workers)
    assert tars(tmp_path / "0") == tars(tmp_path / "1") and len(tars(tmp_path / "0")) == 3
    again = write_world(tmp_path / "1", 20, 3, codec=codec, clips_per_shard=8, kind="flight", workers=1)
    assert (again.kept, again.written) == (20, 0)


def test_every_world_is_written_by_its_name(tmp_path: Path) -> None:
    for kind in WORLDS:
        out = tmp_path / kind
        main(["--world", kind, "--clips", "2", "--pictures", "3", "--out", str(out)])
        made = world_batch(0, range(2), 3, kind)
        assert made.video is not None
        assert torch.equal(torch.stack([decode(s, "mp4").content for s in samples(out)]), to_uint8(made.video))
        assert all(("actions.npy" in s.members) == (kind == "flight") for s in samples(out))


def test_another_world_takes_the_place_of_the_first_and_bad_numbers_are_refused(tmp_path: Path) -> None:
    write_world(tmp_path, 2, 3)
    assert write_world(tmp_path, 2, 3, kind="journey").written == 2 and len(samples(tmp_path)) == 2
    for says, words in {
        "0 clips of the world": {"clips": 0},
        "-1 workers: give 0": {"clips": 1, "workers": -1},
    }.items():
        with pytest.raises(ShardError, match=says):
            write_world(tmp_path, pictures=3, **words)
