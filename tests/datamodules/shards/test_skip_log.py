"""Data that bites: skipped, written down once, and nothing else in the stream changes."""

from __future__ import annotations

import io
import json
import multiprocessing
import os
import threading
import time
import warnings
from collections import Counter
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch.loggers import CSVLogger

from callbacks import Skipped
from datamodules.clips import ShardData
from datamodules.shards.index import Sample, index_shard
from datamodules.shards.patience import Patience
from datamodules.shards.sampler import BatchStream
from datamodules.shards.shard_error import ShardError
from datamodules.shards.shard_writer import npy
from datamodules.shards.skip_log import Ledger, Skip
from tests.datamodules import test_clips
from tests.datamodules.shards.test_safe_decode import good
from tests.support.hostile_shards import blocks, entry, sample, tar
from tests.support.resume_worker import Notes, Saves, run

PER_SHARD, SHARDS = 20, 20
PLACES = PER_SHARD * SHARDS


def array(values: Any) -> bytes:
    out = io.BytesIO()
    np.save(out, values)
    return out.getvalue()


SHAPE = (5, 2, 4, 4)
BITES: dict[str, tuple[dict[str, bytes | None], str]] = {
    "nan": ({"latent.npy": array(np.full(SHAPE, np.nan, "f2"))}, "not finite"),
    "inf": ({"latent.npy": array(np.full(SHAPE, np.inf, "f2"))}, "not finite"),
    "shape": ({"latent.npy": npy(torch.zeros(5, 2, 4, 3))}, "another shape"),
    "axes": ({"latent.npy": npy(torch.zeros(2, 4, 4))}, "unreadable"),
    "dtype": ({"latent.npy": array(np.zeros(SHAPE, "i4"))}, "wrong dtype"),
    "half": ({"latent.npy": npy(torch.zeros(SHAPE))[:200]}, "unreadable"),
    "no latents": ({"latent.npy": None}, "no latents"),
    "no caption": ({"txt": None}, "no caption"),
    "empty caption": ({"txt": b" \n"}, "no caption"),
    "facts": ({"json": b"[1"}, "unreadable"),
    "header": ({}, "corrupt member"),  # its header is damaged below
    "words": ({"txt": b"\xff\xff"}, "unreadable"),
}


def members(i: int, bite: str | None) -> bytes:
    change = BITES[bite][0] if bite else {}
    whole = sample(i, data=npy(torch.full(SHAPE, float(i))))
    if bite == "header":
        at = whole.index(b"clip-%03d.latent.npy" % i)
        return whole[: at + 3] + b"\0" + whole[at + 4 :]
    if not change:
        return whole
    kinds = {"latent.npy": npy(torch.full(SHAPE, float(i))), "txt": b"clip %d" % i, "json": b"{}"} | change
    return b"".join(blocks(*entry(f"clip-{i:03d}.{k}", v)) for k, v in sorted(kinds.items()) if v is not None)


def write(folder: Path, bad: dict[int, str]) -> str:
    folder.mkdir()
    for s in range(SHARDS):
        rows = range(s * PER_SHARD, (s + 1) * PER_SHARD)
        (folder / f"s-{s:02d}.tar").write_bytes(tar(*(members(i, bad.get(i)) for i in rows)))
    return str(folder)


def lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "skipped.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.filterwarnings("ignore:skipping")
def test_twelve_kinds_of_bad_data_are_listed_once_and_the_rest_of_the_stream_is_what_it_was(
    tmp_path: Path, workers: int
) -> None:
    bites = list(BITES)
    places = torch.randperm(PLACES, generator=torch.Generator().manual_seed(5))[: PLACES // 20].tolist()
    bad = {place: bites[k % len(bites)] for k, place in enumerate(places)}
    assert set(bad.values()) == set(bites) and len(bad) == PLACES // 20
    clean = ShardData(write(tmp_path / "clean", {}), batch=20)
    steps = 2 * PLACES // 20
    usual = [p for batch in islice(iter(clean.batches()), steps) for p in batch.prompts]
    data, root = write(tmp_path / "bad", bad), tmp_path / "run"
    saves = Saves(tmp_path)
    stream = run(ShardData(data, batch=20, workers=workers), Notes(steps), root, saves)
    assert [number for number, _ in stream] == list(range(2 * PLACES))
    got, want = [p for _, p in stream], usual
    names = {f"clip {i}" for i in bad}
    nexts = {p: next(q for q in want[p + 1 :] if q not in names) for p in range(len(want) - 60) if want[p] in names}
    assert [nexts.get(p, q) for p, q in enumerate(want[:-60])] == got[:-60]
    told = Counter((line["shard"], line["key"], line["cause"]) for line in lines(root))
    assert told == {(f"s-{i // PER_SHARD:02d}.tar", f"clip-{i:03d}", BITES[b][1]): 1 for i, b in bad.items()}
    run(ShardData(data, batch=20), Notes(steps), root, ckpt_path=saves.saved[7][0])
    assert len(lines(root)) == len(bad), "a run that is resumed writes nothing twice"


@pytest.mark.filterwarnings("ignore:skipping")
def test_the_curves_tell_what_was_skipped(tmp_path: Path) -> None:
    logged: list[tuple[dict[str, float], int | None]] = []

    class Logger(CSVLogger):
        def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
            logged.append((metrics, step))

    data = ShardData(write(tmp_path / "bad", {3: "nan", 9: "no caption", 44: "inf"}), batch=50, workers=1)
    run(data, Notes(8), tmp_path, Skipped(every=8), logger=Logger(tmp_path))
    assert ({"data/skipped/not_finite": 2, "data/skipped/no_caption": 1}, 8) in logged


def _writes(path: Path, barrier: Any) -> None:
    ledger = Ledger(path, "d")
    for i in range(200):
        barrier.wait()  # all of them come with the same sample at once
        ledger.add([Skip("a.tar", f"k{i}", "nan", "x" * 200)])


def test_many_processes_write_each_line_once(tmp_path: Path) -> None:
    path = tmp_path / "run" / "skipped.jsonl"
    context = multiprocessing.get_context("fork")
    barrier = context.Barrier(4)
    writers = [context.Process(target=_writes, args=(path, barrier)) for _ in range(4)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    keys = [json.loads(line)["key"] for line in path.read_text().splitlines()]
    assert sorted(keys) == sorted({f"k{i}" for i in range(200)})


def test_half_a_line_is_gone_over_and_another_set_does_not_count(tmp_path: Path) -> None:
    path = tmp_path / "skipped.jsonl"
    Ledger(path, "old").add([Skip("a.tar", "k", "nan", "x")])
    with path.open("a") as file:
        file.write('{"data": "new", "shard": "b')
    ledger = Ledger(path, "new")
    assert ledger.add([Skip("a.tar", "k", "nan", "x")]) and not ledger.add([Skip("a.tar", "k", "nan", "x")])
    assert Ledger(path, "new").counts() == {"nan": 1} == ledger.counts()
    assert len(path.read_text().splitlines()) == 3


def test_a_ledger_that_cannot_be_written_counts_on(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    ledger = Ledger(tmp_path / "file" / "skipped.jsonl")
    with pytest.warns(UserWarning, match="cannot be written"):
        ledger.add([Skip("a.tar", "k", "nan", "x")])
    ledger.add([Skip("a.tar", "l", "nan", "x"), Skip("a.tar", None, "vanished shard", "x", 20)])
    assert ledger.counts() == {"nan": 2, "vanished shard": 20}


@pytest.mark.filterwarnings("ignore:skipping")
def test_a_shard_that_vanishes_gives_its_places_to_the_others(tmp_path: Path) -> None:
    shards = write(tmp_path / "s", {})
    usual = [b.prompts for b in islice(iter(ShardData(shards, batch=20).batches()), 20)]
    data = ShardData(shards, batch=20, memory_gb=0, max_skipped_share=0.05)
    batches = data.batches()
    (tmp_path / "s" / "s-03.tar").unlink()
    gone = {f"clip {i}" for i in range(60, 80)}
    got = [b.prompts for b in islice(iter(batches), 20)]
    assert all(g == u for a, b in zip(got, usual, strict=True) for g, u in zip(a, b, strict=True) if u not in gone)
    assert not gone & {p for b in got for p in b} and data.skipped == {"vanished shard": 20}
    (tmp_path / "s" / "s-04.tar").unlink()
    with pytest.raises(
        ShardError, match=r"21 of 400 .*vanished shard.*max_skipped_share 0.05, and s-03.tar is worst, 20"
    ):
        list(islice(iter(batches), 40))


@pytest.mark.filterwarnings("ignore:skipping")
def test_an_index_keeps_the_places_of_what_is_gone(tmp_path: Path) -> None:
    shards = test_clips.write(tmp_path / "s", 40)
    usual = [p for b in islice(iter(ShardData(shards, batch=4).batches()), 10) for p in b.prompts]
    (tmp_path / "s" / "shard-000002.tar").unlink()
    path = tmp_path / "s" / "shard-000006.tar"
    path.write_bytes(path.read_bytes()[:3000])
    data = ShardData(shards, batch=4, max_skipped_share=0.3)
    got = [p for b in islice(iter(data.batches()), 10) for p in b.prompts]
    gone = {f"clip {i}" for i in (*range(8, 12), *range(24, 28))}
    assert [g for g, u in zip(got, usual, strict=True) if u not in gone] == [u for u in usual if u not in gone]
    assert data.skipped == {"vanished shard": 4, "broken shard": 4}
    empty = tmp_path / "s" / "shard-000099.tar"
    empty.write_bytes(tar())
    again = ShardData(shards, batch=4, max_skipped_share=0.3)
    again.setup()
    assert again.skipped == {"vanished shard": 4, "broken shard": 4, "empty shard": 1}


def test_a_slow_disk_is_asked_again_and_then_left_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shards = write(tmp_path / "s", {})
    fetch, slow = Sample.fetch, {"clip-007": 1, "clip-100": 99}  # how often it hangs

    def hanging(self: Sample, kinds: list[str]) -> dict[str, bytes]:
        if slow.get(self.key, 0) > 0:
            slow[self.key] -= 1
            time.sleep(1.0)
        return fetch(self, kinds)

    monkeypatch.setattr(Sample, "fetch", hanging)
    data = ShardData(shards, batch=20, read_timeout_s=0.15)
    data.setup()
    assert data.rows is not None
    data.rows.patience.pause = 0.01
    with pytest.warns(UserWarning, match=r"clip-100 cannot be read \(no answer within 0.15 s\)"):
        got = {p for b in islice(iter(data.batches()), 20) for p in b.prompts}
    assert slow["clip-007"] == 0 and slow["clip-100"] > 90, "asked a few times, not for ever"
    assert "clip 7" in got and "clip 100" not in got and data.skipped == {"out of reach": 1}


def test_patience_ends_and_passes_on_what_is_final() -> None:
    tries: list[int] = []

    def fails() -> bytes:
        tries.append(os.getpid())
        raise RuntimeError("503")

    patience = Patience(1, 3, 0.0)
    with pytest.raises(OSError, match="RuntimeError: 503"):
        patience(fails, Path("a"))
    assert len(tries) == 3
    with pytest.raises(OSError):
        patience(fails, Path("a"))
    assert len(tries) == 4, "once is enough when it is known to be down"
    with pytest.raises(FileNotFoundError):
        patience(Path("/nowhere").read_bytes, Path("b"))


def test_the_thread_of_a_reader_ends_with_it() -> None:
    def helpers() -> set[threading.Thread]:
        return {thread for thread in threading.enumerate() if thread.name == "patience"}

    others, patience = helpers(), Patience()
    patience(list, Path("a"))
    (mine,) = helpers() - others
    del patience
    mine.join(10)
    assert not mine.is_alive()


def test_when_all_is_gone_it_ends(tmp_path: Path) -> None:
    shards = write(tmp_path / "s", {})
    data = ShardData(shards, batch=20, memory_gb=0, max_skipped_share=1)
    batches: BatchStream = data.batches(0, 2)
    for path in (tmp_path / "s").iterdir():
        path.unlink()
    with (
        warnings.catch_warnings(),
        pytest.raises(ShardError, match=r"only bad samples .* is its storage available"),
    ):
        warnings.simplefilter("ignore")
        next(iter(batches))


def test_a_truncated_video_and_a_damaged_header_cost_one_sample(tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_bytes(tar(*(good(i, "video") for i in range(4))))
    data = (tmp_path / "a.tar").read_bytes()
    at = data.index(b"clip-002.mp4")
    (tmp_path / "a.tar").write_bytes(data[:at] + b"x" + data[at + 1 :])
    samples, torn = index_shard(tmp_path / "a.tar")
    assert torn is None and [s.key for s in samples if not s.fault] == ["clip-000", "clip-001", "clip-003"]
    assert [s.fault.cause for s in samples if s.fault] == ["corrupt member"]
