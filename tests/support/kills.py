"""Runs that are killed, stopped or asked to stop, and go on.

Processes are forked from one that has imported everything, so that a start costs a fraction of a second and hundreds
of kills fit into minutes. `make faults` does many, tests/callbacks/checkpointing/test_resume_command.py a few.
"""

from __future__ import annotations

import faulthandler
import gc
import importlib
import json
import os
import random
import signal
import sys
import time
import traceback
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

from adastate.runtime import signals
from tests.support.ports import free_port
from tests.support.small_run import Plan, train

LIMIT_S = 600
"""A run that takes longer hangs."""

GRACE_S = 60
"""For the other ranks, once one has failed: they say what befell them and end. Only ranks that hang take so long."""

LEAVE_S = 5
"""For ranks to leave together: gloo may crash in one of which the other has just gone."""

ABORTED = "was aborted in native code"
"""As torch's gloo is, rarely, where one thread frees what another reads (pytorch/pytorch#75529). A test that says so
is run again (pyproject.toml), and the summary tells of it."""


def launch(plan: Plan, folder: Path, every_digest: bool = False) -> list[int]:
    """Process ids of a start of the run, one a rank."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "plan.json").write_text(json.dumps(asdict(plan)))
    for old in (*folder.glob("done.*"), *folder.glob("late.*"), *folder.glob("left.*")):
        old.unlink()
    if plan.strategy.startswith("zero"):
        _import_deepspeed()
    before = signals.listen()  # a child listens from its first moment on
    port = free_port()
    children = []
    for rank in range(plan.world):
        child = os.fork()
        if child == 0:
            code = 1
            try:
                os.setsid()  # its loader's workers die with it
                signals.forget()
                log = os.open(folder / f"log.{rank}", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
                os.dup2(log, 1), os.dup2(log, 2)
                sys.stdout = sys.stderr = os.fdopen(log, "w", 1)  # and not where pytest captures
                faulthandler.enable(2)  # a crash in native code says where
                gc.freeze()  # what earlier tests left behind is not taken apart here, where its threads are missing
                train(plan, folder, rank, port, every_digest)
                code = 0
            except SystemExit as stop:
                code = int(stop.code or 0)
            except BaseException:
                traceback.print_exc()
            finally:
                sys.stdout.flush(), sys.stderr.flush()
                _leave_together(plan, folder, rank)
                os._exit(code)
        children.append(child)
    signals.set_handlers(before)
    return children


def _leave_together(plan: Plan, folder: Path, rank: int) -> None:
    (folder / f"left.{rank}").touch()
    until = time.monotonic() + LEAVE_S
    while len([*folder.glob("left.*")]) < plan.world and time.monotonic() < until:
        time.sleep(0.005)


def _import_deepspeed() -> None:
    """Once for all children: what an engine imports when it is made takes longer than a run here."""
    os.environ["DS_ACCELERATOR"] = "cpu"

    with suppress(ImportError):
        importlib.import_module("deepspeed.runtime.zero.muon.muon_optimizer")


def wait(children: list[int], until: float, folder: Path, well: tuple[int, ...] = (0,)) -> bool:
    """Whether all have ended by themselves, with an exit code that is `well`, before `until`; then they are reaped.

    Raises:
        RuntimeError: one has ended otherwise. The others have GRACE_S to say what befell them.
    """
    left, bad = dict.fromkeys(children), list[int]()
    while left and time.monotonic() < until:
        for child in list(left):
            ended, status = os.waitpid(child, os.WNOHANG)
            if ended:
                left.pop(child)
                code = os.waitstatus_to_exitcode(status)
                if code not in well:
                    bad.append(code)
                    until = min(until, time.monotonic() + GRACE_S)
        time.sleep(0.005)
    if bad:
        kill([*left])
        how = ABORTED if {-signal.SIGABRT, -signal.SIGSEGV} & {*bad} else f"ended with {bad[0]}"
        raise RuntimeError(f"a process {how}:\n" + tail(folder))
    return not left


def kill(children: list[int]) -> None:
    """SIGKILL to every process and whatever it started."""
    for child in children:
        try:
            os.killpg(child, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):
            try:
                os.kill(child, signal.SIGKILL)
            except ProcessLookupError:
                continue
    for child in children:
        try:
            os.waitpid(child, 0)
        except ChildProcessError:
            continue


def tail(folder: Path) -> str:
    """The end of every rank's log; of a crash in native code what Python was doing."""
    ends = []
    for path in sorted(folder.glob("log.*")):
        text, crash, stack = path.read_text(errors="replace").partition("Fatal Python error")
        ends.append(text[-2000:] + crash + stack[:4000])
    return "\n".join(ends)


def straight(plan: Plan, folder: Path, every_digest: bool = False) -> tuple[str, float]:
    """(digest, seconds) of the run without a fault; `digests.<rank>` then has those of every iteration."""
    began = time.monotonic()
    if not wait(launch(plan, folder, every_digest), began + LIMIT_S, folder):
        raise RuntimeError(f"the undisturbed run hangs:\n{tail(folder)}")
    return result(plan, folder), time.monotonic() - began


def result(plan: Plan, folder: Path) -> str:
    digests = {(folder / f"done.{rank}").read_text() for rank in range(plan.world)}
    if len(digests) != 1:
        raise RuntimeError(f"ranks ended differently: {digests}")
    return digests.pop()


def killed(plan: Plan, folder: Path, kills: int, seconds: float, seed: int) -> tuple[str, int]:
    """(digest, kills that met a living run) of a run killed at random moments of its `seconds`."""
    dice = random.Random(seed)
    done = 0
    while done < kills:
        children = launch(plan, folder)
        if wait(children, time.monotonic() + dice.uniform(0.02, seconds), folder):
            break  # it reached its end before
        kill(children)
        done += 1
    if not (folder / "done.0").is_file():
        children = launch(plan, folder)
        if not wait(children, time.monotonic() + LIMIT_S, folder):
            kill(children)
            raise RuntimeError(f"the resumed run hangs:\n{tail(folder)}")
    return result(plan, folder), done


def asked(plan: Plan, folder: Path, seconds: float, dice: random.Random) -> tuple[bool, int]:
    """Starts the run and asks it to stop at a random moment of its `seconds`, as SLURM would or by one rank's signal.

    Returns:
        (whether the signal met a living run, how many steps began on a rank after it had heard the signal).

    Raises:
        RuntimeError: it hangs, or ends otherwise than by stopping or by finishing.
    """
    children = launch(plan, folder)
    if wait(children, time.monotonic() + dice.uniform(0.0, seconds), folder):
        return False, 0
    number, whom = dice.choice([signal.SIGUSR1, signal.SIGTERM]), dice.choice(["one", "all", "groups"])
    for child in [dice.choice(children)] if whom == "one" else children:
        try:
            (os.killpg if whom == "groups" else os.kill)(child, number)
        except ProcessLookupError:
            continue  # not yet the leader of its group, or just ended
    if not wait(children, time.monotonic() + LIMIT_S, folder, well=(0, signals.AGAIN)):
        kill(children)
        raise RuntimeError(f"hangs after {number.name} to {whom}:\n{tail(folder)}")
    late = [int(p.read_text()) for p in folder.glob("late.*")]
    return True, max(late, default=0)


def samples(plan: Plan, folder: Path) -> dict[int, list[int]]:
    """Global sample numbers of every finished iteration over all ranks; a repeated iteration has to repeat them.

    What an iteration after the last checkpoint used is used again, so the last entry counts.
    """
    found: dict[int, list[int]] = {}
    for rank in range(plan.world):
        mine: dict[int, list[int]] = {}
        for line in (folder / f"consumed.{rank}").read_text().splitlines():
            try:
                iteration, used = json.loads(line)
            except json.JSONDecodeError:
                continue  # the half line of a killed process
            assert mine.get(iteration, used) == used, f"iteration {iteration} used other samples the second time"
            mine[iteration] = used
        for iteration, used in mine.items():
            found.setdefault(iteration, []).extend(used)
    return {iteration: sorted(used) for iteration, used in sorted(found.items())}
