"""A loader's worker that is stopped, hangs or is killed is told of in a sentence, and nothing of it is left."""

from __future__ import annotations

import os
import re
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from torch.utils.data import DataLoader, IterableDataset

from adastate.config.mistakes import sentence
from datamodules.shards import worker_watch
from datamodules.shards.sampler import _Loader
from datamodules.shards.worker_watch import WorkerSilent, watched

pytestmark = pytest.mark.skipif(not Path("/proc/self/stat").is_file(), reason="needs /proc")


class Numbers(IterableDataset[int]):
    def __init__(self, hangs_at: int = -1) -> None:
        self.hangs_at = hangs_at

    def __iter__(self) -> Iterator[int]:
        for number in range(100):
            if number == self.hangs_at:
                time.sleep(600)
            yield number


@pytest.fixture(autouse=True)
def _short(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    before = signal.getsignal(signal.SIGCHLD)
    monkeypatch.setattr(worker_watch, "LOOK_S", 0.2)
    monkeypatch.setattr(worker_watch, "STOPPED_LOOKS", 3)
    yield
    signal.signal(signal.SIGCHLD, before)


def begin(hangs_at: int = -1) -> tuple[Iterator[int], int]:
    """A loader of one worker, which has given a batch, and its worker."""
    batches = iter(DataLoader(Numbers(hangs_at), batch_size=None, num_workers=1, timeout=worker_watch.LOOK_S))
    assert next(batches) == 0
    (worker,) = worker_watch._processes(batches)
    return batches, worker


def test_a_stopped_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    batches, worker = begin()
    os.kill(worker, signal.SIGSTOP)
    with pytest.raises(WorkerSilent) as failed:
        list(watched(batches))
    told = sentence(failed.value)
    assert told and "\n" not in told
    assert f"(process {worker}) is stopped: let it go on (kill -CONT) or end it" in told
    del batches, failed
    with pytest.raises((ChildProcessError, ProcessLookupError)):
        os.waitpid(worker, 0), os.kill(worker, 0)


def test_a_worker_that_goes_on_in_time_costs_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    batches, worker = begin()
    looks = list[int]()

    def look(process: int) -> bool:
        looks.append(process)
        if len(looks) == 2:
            os.kill(process, signal.SIGCONT)
        return len(looks) < 2

    monkeypatch.setattr(worker_watch, "is_stopped", look)
    os.kill(worker, signal.SIGSTOP)
    assert list(watched(batches)) == [*range(1, 100)]
    assert len(looks) >= 2


def test_a_worker_that_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker_watch, "SILENT_LOOKS", 4)
    batches, worker = begin(hangs_at=5)
    with pytest.raises(WorkerSilent, match=rf"\(process {worker}\) hangs: see whether its storage is there"):
        list(watched(batches))


def test_a_killed_worker() -> None:
    batches, worker = begin(hangs_at=5)
    os.kill(worker, signal.SIGKILL)
    with pytest.raises(RuntimeError) as failed:
        list(watched(batches))
    told = sentence(failed.value)
    assert told and "--ckpt_path=auto" in told
    assert re.search(
        rf"\(process {worker}\) (is killed by signal: killed|exited unexpectedly): see how much memory", told
    )


def test_loaders_with_workers_are_watched_in_the_stated_time() -> None:
    from datamodules.shards.sampler import BatchStream

    stream = BatchStream(lambda numbers: None, 1, 1)  # type: ignore[arg-type,return-value]
    assert _Loader(stream, 1, None).timeout == worker_watch.LOOK_S
    assert _Loader(stream, 0, None).timeout == 0
