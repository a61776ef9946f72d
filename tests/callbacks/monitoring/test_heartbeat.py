"""A rank that does not answer ends the run, and is named with the place where it stood."""

from __future__ import annotations

import json
import signal
import threading
import time
from pathlib import Path

import pytest

from callbacks.monitoring.heartbeat import LOST, SIZE, Beat, Heartbeat, Watch, standing, verdict
from tests.support.rank_worker import ranks, wait_for

TIMEOUT = 3.0


@pytest.mark.slow
def test_a_rank_that_hangs_is_named_with_its_place(tmp_path: Path) -> None:
    with ranks(tmp_path, 2, "--hang", "1", "--timeout", str(TIMEOUT)) as both:
        wait_for(both[1], "at 20")
        said = [process.communicate(timeout=120)[0] for process in both]
    assert [process.returncode for process in both] == [LOST, LOST], "\n".join(said)
    assert any("rank 1: iteration 20, in the training step, " in s and " training_step (process" in s for s in said)
    assert any("has not moved" in s for s in said)


@pytest.mark.slow
def test_a_rank_that_is_stopped_is_named(tmp_path: Path) -> None:
    with ranks(tmp_path, 2, "--timeout", str(TIMEOUT)) as both:
        wait_for(both[1], "at 20")
        both[1].send_signal(signal.SIGSTOP)
        said = both[0].communicate(timeout=120)[0]
        assert both[0].returncode == LOST
    assert "rank 1 does not answer" in said
    assert "rank 1: iteration" in said and f"(process {both[1].pid} on " in said


@pytest.mark.slow
def test_a_run_that_goes_well_is_left_alone_and_says_that_it_is_done(tmp_path: Path) -> None:
    with ranks(tmp_path, 2, "--iterations", "150", "--timeout", "4") as both:
        said = [process.communicate(timeout=240)[0] for process in both]
        assert [process.returncode for process in both] == [0, 0], "\n".join(said)
    for rank in (0, 1):
        beat = Beat.read(tmp_path / "ranks" / f"{rank}.json")
        assert beat is not None and beat.over and beat.phase == "done" and beat.iteration == 150


def beat(rank: int = 0, **facts: object) -> Beat:
    return Beat("run", rank, **facts)  # type: ignore[arg-type]


def test_a_watch_goes_by_its_own_clock() -> None:
    watch = Watch(0.0)
    assert watch.wrong(10, 10) == "" and "no heartbeat" in watch.wrong(11, 10)
    for now in range(30):
        watch.see(beat(count=now, moves=now // 20), now)
    assert watch.wrong(30, 10) == "" and watch.wrong(31, 10) == "has not moved for 11 s"
    watch.see(beat(count=99, moves=1, over=True), 31)
    assert watch.wrong(1000, 10) == ""


def test_the_silent_one_is_to_blame_or_else_the_one_behind() -> None:
    first = {0: beat(0, count=5, moves=9), 1: beat(1, count=5, moves=9), 2: beat(2, count=5, moves=8)}
    then = {rank: beat(rank, count=7, moves=old.moves) for rank, old in first.items()}
    assert verdict(first, then) == "behind the others: rank 2"
    assert verdict(first, {**then, 1: first[1]}) == "rank 1 does not answer"
    assert verdict(first, {**then, 1: None, 0: None}) == "ranks 0, 1 do not answer"
    assert verdict(first, {**then, 2: beat(2, count=7, moves=9)}) == "all ranks are at the same place"
    ended = beat(1, count=5, moves=9, over=True)
    assert verdict({**first, 1: ended}, {**then, 1: ended}) == "behind the others: rank 2"


def test_a_beat_never_grows_and_half_a_beat_is_none(tmp_path: Path) -> None:
    path = tmp_path / "0.json"
    for where in ("", "x" * 5000, "y"):
        beat(where=where).write(path)
        assert path.stat().st_size == SIZE
        found = Beat.read(path)
        assert found is not None and found.where[:1] == where[:1]
    path.write_bytes(path.read_bytes()[:40])
    assert Beat.read(path) is None and Beat.read(tmp_path / "none.json") is None
    path.write_text(json.dumps({"run": "a", "rank": 0, "unknown": 1}))
    assert Beat.read(path) is None


def test_where_a_thread_stands() -> None:
    ready, end = threading.Event(), threading.Event()

    def waiting() -> None:
        ready.set()
        end.wait()

    thread = threading.Thread(target=waiting)
    thread.start()
    ready.wait()
    time.sleep(0.05)
    assert thread.ident is not None
    assert standing(thread.ident).startswith("threading:") and standing(-1) == ""
    end.set()
    thread.join()


def test_a_timeout_holds_several_beats() -> None:
    with pytest.raises(ValueError, match=r"every_s=5\.0"):
        Heartbeat(timeout_s=10.0)
