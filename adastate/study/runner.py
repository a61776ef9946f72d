"""Runs a study's runs as separate processes, several at a time; a study that is killed anywhere can be resumed."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from rich.console import Console

from adastate.launch.stage_runner import StageRunner
from adastate.runtime import atomic, signals
from adastate.study import arm_stages
from adastate.study.arm_stages import StudySetting
from adastate.study.table import Beginning, Task

LOG = "study.log"
POLL = 0.5
"""Seconds between polls of the processes."""

T = TypeVar("T")

ELSEWHERE = 77
"""Exit code of a run that another process is working on."""


def stage_runner(setting: StudySetting, folder: Path, console: Console | None = None) -> StageRunner:
    """Runs the stages of one folder of a study, which can be moved as a whole."""
    return StageRunner(folder, console or Console(quiet=True), "study", setting.root)


def run_one(setting: StudySetting, task: Task, console: Console, keep: bool = False) -> None:
    """Runs one task in this process: finished stages are skipped, started ones resume, a changed run starts over."""
    here = task.folder(setting.root)
    here.mkdir(parents=True, exist_ok=True)
    with claimed(here) as mine:
        if not mine:
            raise SystemExit(ELSEWHERE)
        if arm_stages.has_changed(setting, task):
            # arm.yaml is written last: if killed before that, the run still counts as changed
            for old in ("stages", "distill"):
                shutil.rmtree(here / old, ignore_errors=True)
        atomic.write_text(here / "arm.yaml", arm_stages.arm_text(setting, task))
        stage_runner(setting, here, console).run_stages(arm_stages.stages_of_run(setting, task))
        if not keep:  # ten times as large as the rest of a run, and never resumed from
            shutil.rmtree(here / "distill" / "checkpoints", ignore_errors=True)


def make_beginning(setting: StudySetting, beginning: Beginning, console: Console) -> None:
    """Makes one initialisation in this process; other processes that need it wait."""
    here = beginning.folder(setting.root)
    here.mkdir(parents=True, exist_ok=True)
    with claimed(here, wait=True):
        stage_runner(setting, here, console).run_stages(arm_stages.initialisation(setting, beginning))
        # the checkpoints are fifty times as large as the weights
        shutil.rmtree(here / "ar" / "checkpoints", ignore_errors=True)
        shutil.rmtree(here / "init" / "checkpoints", ignore_errors=True)


@contextmanager
def claimed(folder: Path, wait: bool = False) -> Iterator[bool]:
    """Whether this process holds the folder's lock; the system releases it when the process ends, however it ends.

    Args:
        wait: until others release the lock, instead of returning False.
    """
    import fcntl

    with (folder / ".lock").open("w", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            yield False
            return
        yield True


def command(task: Task | Beginning, words: Sequence[str]) -> list[str]:
    """Command of the process for one run or initialisation; `words` identify the study."""
    what = ["begin", str(task.chunk_frames)] if isinstance(task, Beginning) else ["run", task.arm.name]
    return [sys.executable, "-m", "adastate.main", "study", *what, str(task.seed), *words]


def in_order(tasks: Sequence[Task]) -> list[Task | Beginning]:
    """The runs, with each initialisation before the first run that needs it, and always one ahead, so that no run
    waits."""
    beginnings = list(dict.fromkeys(task.beginning for task in tasks))
    found: dict[Task | Beginning, None] = {}
    for task in tasks:
        at = beginnings.index(task.beginning)
        found |= dict.fromkeys([*beginnings[: at + 2], task])
    return list(found)


def run_environment(jobs: int) -> dict[str, str]:
    """Environment of the runs: each gets its share of the cores, one if there are as many runs as cores."""
    threads = str(max(1, (os.cpu_count() or 1) // jobs))
    return {**os.environ, "OMP_NUM_THREADS": threads, "OMP_WAIT_POLICY": "passive"}


def run_all(
    tasks: Sequence[T],
    start: Callable[[T], list[str]],
    log: Callable[[T], Path],
    jobs: int,
    say: Callable[[str], Any],
    ready: Callable[[T], bool] = lambda _: True,
) -> list[T]:
    """Runs `start(task)` for every task, `jobs` at a time and in order; returns those that failed.

    A failure does not stop the others. A termination signal is passed on, and ends in SystemExit.

    Args:
        log: file for a run's output.
        ready: whether a task may begin; tasks for which it never becomes true are skipped.
    """
    waiting, running, failed = list(tasks), dict[T, subprocess.Popen[bytes]](), list[T]()
    began, done = {}, 0

    def pass_on(number: int) -> None:
        for process in running.values():
            if number == signal.SIGKILL:
                os.killpg(process.pid, number)
            else:
                process.send_signal(signal.SIGTERM)

    before = signals.listen(tell=pass_on)
    try:
        while waiting or running:
            startable = [] if signals.heard() else [task for task in waiting if ready(task)]
            for task in startable[: jobs - len(running)]:
                waiting.remove(task)
                path = log(task)
                path.parent.mkdir(parents=True, exist_ok=True)
                with path.open("ab") as out:
                    # a session of its own: Ctrl-C in a terminal reaches only this process, which passes it on
                    running[task] = subprocess.Popen(
                        start(task), stdout=out, stderr=out, env=run_environment(jobs), start_new_session=True
                    )
                if signals.heard():  # while the process was being started, when nobody could pass it on
                    running[task].send_signal(signal.SIGTERM)
                began[task] = time.monotonic()
                say(f"{task} started ({done + len(running)} of {len(tasks)})")
            if not running and not signals.heard():
                break
            for task, process in list(running.items()):
                code = process.poll()
                if code is None:
                    continue
                del running[task]
                done += 1
                minutes, seconds = divmod(round(time.monotonic() - began[task]), 60)
                if code == ELSEWHERE:
                    say(f"{task} is being run by another process")
                elif code in (0, signals.ENDED):
                    say(f"{task} done, {minutes}:{seconds:02d}")
                elif not signals.heard():
                    failed.append(task)
                    say(f"{task} failed (exit {code}); its log is {log(task)}")
            if signals.heard() and not running:
                say(f"stopped by {signals.heard()}; run the same command again to resume")
                raise SystemExit(signals.AGAIN)
            time.sleep(POLL if running else 0)
    finally:
        signals.set_handlers(before)
    return failed
