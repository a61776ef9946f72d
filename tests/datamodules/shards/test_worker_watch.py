"""A loader's worker that is stopped, hangs or is killed is told of in a sentence, and nothing of it is left."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

from adastate.config.mistakes import sentence
from datamodules.shards import worker_watch
from datamodules.shards.sampler import _Loader
from datamodules.shards.worker_watch import WorkerSilent, watched
from tests.support.disk_faults import ROOT, SMALL, Runs, lost

pytestmark = pytest.mark.skipif(not Path("/proc/self/stat").is_file(), reason="needs /proc")


class Numbers(IterableDataset[int]):
    def __init__(self, hangs_at: int = -1) -> None:
        self.hangs_at = hangs_at

    def __iter__(self) -> Iterator[int]:
        for number in range(100):
            if number == self.hangs_at:
                time.sleep(600)
            yield number


class Pictures(IterableDataset[Tensor]):
    """Batches whose memory is handed over by the worker itself when they are taken out of the queue."""

    def __iter__(self) -> Iterator[Tensor]:
        yield from (torch.full((100,), n) for n in range(100))


BEGUN = list[Any]()


@pytest.fixture(autouse=True)
def _short(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    before = signal.getsignal(signal.SIGCHLD)
    monkeypatch.setattr(worker_watch, "LOOK_S", 0.2)
    monkeypatch.setattr(worker_watch, "STOPPED_LOOKS", 3)
    yield
    while BEGUN:  # torch would tell of their dead workers where the next loader begins, if a traceback still held them
        BEGUN.pop()._shutdown_workers()
    signal.signal(signal.SIGCHLD, before)


def begin(hangs_at: int = -1) -> tuple[Iterator[int], int]:
    """A loader of one worker, which has given a batch, and its worker."""
    batches = iter(DataLoader(Numbers(hangs_at), batch_size=None, num_workers=1, timeout=worker_watch.LOOK_S))
    BEGUN.append(batches)
    assert next(watched(batches)) == 0  # a busy machine may take longer than a look to begin
    (worker,) = worker_watch._processes(batches)
    return batches, worker


def test_a_stopped_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    batches, worker = begin()
    os.kill(worker, signal.SIGSTOP)
    with pytest.raises(WorkerSilent) as failed:
        list(watched(batches))
    told = sentence(failed.value)
    assert told and "\n" not in told
    assert f"(process {worker}) was stopped and has been killed; then resume with --ckpt_path=auto" in told
    del batches, failed
    with pytest.raises((ChildProcessError, ProcessLookupError)):
        os.waitpid(worker, 0), os.kill(worker, 0)


def test_a_worker_that_is_stopped_while_it_hands_a_batch_over() -> None:
    """torch has no timeout there."""
    batches = iter(DataLoader(Pictures(), batch_size=None, num_workers=1, timeout=worker_watch.LOOK_S))
    next(batches)
    (worker,) = worker_watch._processes(batches)
    time.sleep(0.5)  # by now the next ones are in its queue
    os.kill(worker, signal.SIGSTOP)
    with pytest.raises(WorkerSilent, match=rf"\(process {worker}\) was stopped"):
        list(watched(batches))


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
    batches, worker = begin(hangs_at=5)
    monkeypatch.setattr(worker_watch, "SILENT_LOOKS", 4)
    with pytest.raises(WorkerSilent, match=rf"\(process {worker}\) hangs: check that its storage is available"):
        list(watched(batches))


def test_a_killed_worker() -> None:
    batches, worker = begin(hangs_at=5)
    os.kill(worker, signal.SIGKILL)
    with pytest.raises(RuntimeError) as failed:
        list(watched(batches))
    told = sentence(failed.value)
    assert told and "--ckpt_path=auto" in told
    assert re.search(
        rf"\(process {worker}\) (is killed by signal: killed|exited unexpectedly): check its memory limit", told
    )


def test_loaders_with_workers_are_watched_in_the_stated_time() -> None:
    from datamodules.shards.sampler import BatchStream

    stream = BatchStream(lambda numbers: None, 1, 1)  # type: ignore[arg-type,return-value]
    assert _Loader(stream, 1, None).timeout == worker_watch.LOOK_S
    assert _Loader(stream, 0, None).timeout == 0


RUN = """
import sys
from adastate.main import main
from datamodules.shards import worker_watch
worker_watch.LOOK_S, worker_watch.STOPPED_LOOKS = 0.5, 4
main(sys.argv[1:])
"""


@pytest.mark.slow
@pytest.mark.parametrize("sent", [signal.SIGSTOP, signal.SIGKILL])
def test_a_run_of_one_process_whose_worker_is_gone_ends_with_a_sentence(sent: signal.Signals, tmp_path: Path) -> None:
    """`adastate fit` itself; what it has saved is there, and none of its processes is left."""
    runs = Runs.__new__(Runs)
    runs.world, runs.strategy, runs.data = 1, "one", tmp_path
    (tmp_path / "prompts.txt").write_text("a red ball\nslow snow\n")
    (tmp_path / "small.yaml").write_text(SMALL)
    words = [*runs.words(tmp_path / "run"), "--data.workers=1", "--run.iterations=100000"]
    command = [sys.executable, "-c", RUN, *words]
    env = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(command, cwd=tmp_path, env=env, stderr=subprocess.PIPE, text=True) as run:
        try:
            log = tmp_path / "run" / "distill" / "run.log.jsonl"
            while not (log.is_file() and '"saved"' in log.read_text()):
                assert run.poll() is None
                time.sleep(0.1)
            (worker,) = _children(run.pid)
            os.kill(worker, sent)
            told = run.communicate(timeout=120)[1]
        finally:
            run.kill()
    last = told.strip().splitlines()[-1]
    assert run.returncode == 1 and last.startswith("adastate: ") and "--ckpt_path=auto" in last
    assert f"process {worker}" in last and "Traceback" not in told
    assert not Path(f"/proc/{worker}").exists(), "the worker is ended"
    assert not lost(tmp_path / "run" / "distill"), "what was saved is whole"


def _children(process: int) -> list[int]:
    """The loader's workers: those that run what the process itself runs."""
    found = [int(c) for c in Path(f"/proc/{process}/task/{process}/children").read_text().split()]
    return [c for c in found if b"worker_watch" in Path(f"/proc/{c}/cmdline").read_bytes()]
