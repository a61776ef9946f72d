"""`make faults`: interrupts runs in every known way, many times, and prints the outcomes.

Runs are the real Distill at its smallest size, in processes forked from this one. `--share 0.05` runs a twentieth of
the trials, `--only stop` those whose name matches. A row is `held` if every trial was; otherwise the exit status is 1.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from tests.support import disk_faults, kills  # noqa: E402
from tests.support.small_run import Plan, make_shards  # noqa: E402


@dataclass(frozen=True)
class Faulted:
    fault: str
    trials: int
    held: int
    told: str
    seconds: float


def to_the_end(plan: Plan, folder: Path) -> None:
    """Starts or resumes a run, and waits for its end."""
    if not kills.wait(kills.launch(plan, folder), time.monotonic() + kills.LIMIT_S, folder):
        raise RuntimeError(f"hangs:\n{kills.tail(folder)}")


def sigkills(folder: Path, plan: Plan, wanted: int) -> Faulted:
    """SIGKILL at random moments of steps, saves and pruning, over as many runs as needed."""
    began, deaths, held, runs = time.monotonic(), 0, 0, 0
    expected, seconds = kills.straight(plan, folder / "straight")
    while deaths < wanted:
        here = folder / f"run{runs}"
        found, died = kills.killed(plan, here, min(8, wanted - deaths), seconds, seed=runs)
        same = kills.samples(plan, here) == kills.samples(plan, folder / "straight")
        held += died if found == expected and same else 0
        deaths, runs = deaths + died, runs + 1
        shutil.rmtree(here)
    name = f"SIGKILL at a random moment, {plan.strategy}, {ranks(plan)}"
    return Faulted(name, deaths, held, f"{runs} runs, each ended like the undisturbed one", time.monotonic() - began)


HOP = 5
"""Steps from one stop of a run to its next, more than a loader prefetches."""


def stops(folder: Path, plan: Plan, wanted: int) -> Faulted:
    """Stops after each of the first `wanted` steps, and resumes.

    There are HOP runs; run k stops after k, k + HOP, ... A stop holds if the following steps, up to the next stop or to
    the end, equal the undisturbed run in bits and samples.
    """
    began = time.monotonic()
    if plan.data == "shards":
        make_shards(folder)
    # Saved only at the stops: here it is the end of a run that saves.
    plan = replace(plan, iterations=wanted + HOP, every=10**6)
    kills.straight(plan, folder / "straight", every_digest=True)
    expected = json.loads((folder / "straight" / "digests.0").read_text(encoding="utf-8"))
    usual = kills.samples(plan, folder / "straight")
    held = stopped = 0
    for first in range(1, min(HOP, wanted) + 1):
        here, at = folder / f"from{first}", [*range(first, wanted + 1, HOP), plan.iterations]
        for i, until in enumerate(at):
            part = replace(plan, iterations=until)
            to_the_end(part, here)
            used = kills.samples(part, here)
            same = kills.result(part, here) == expected[str(until)] and all(used[n] == usual[n] for n in used)
            if i:
                stopped, held = stopped + 1, held + (same and len(used) == until)
            elif not same:
                raise RuntimeError(f"differs before its first stop:\n{kills.tail(here)}")
        shutil.rmtree(here)
    name = f"stop at each step, {plan.strategy}, {ranks(plan)}, {plan.data}, {plan.workers} workers"
    told = f"bit-equal {HOP} steps later, or at the end, and the same samples"
    return Faulted(name, stopped, held, told, time.monotonic() - began)


def preemptions(folder: Path, plan: Plan, wanted: int) -> Faulted:
    """Signals at random moments, to one rank, to all, or to all and their workers; held: at most one step of delay."""
    began, dice, sent, held, runs, slowest = time.monotonic(), random.Random(7), 0, 0, 0, 0
    if plan.data == "shards":
        make_shards(folder)
    expected, seconds = kills.straight(plan, folder / "straight")
    usual = kills.samples(plan, folder / "straight")
    while sent < wanted:
        here, mine, good = folder / f"run{runs}", 0, 0
        while mine < 5 and sent + mine < wanted:
            met, late = kills.asked(plan, here, seconds, dice)
            if not met:
                break
            mine, good, slowest = mine + 1, good + (late <= 1), max(slowest, late)
        to_the_end(plan, here)
        same = kills.result(plan, here) == expected and kills.samples(plan, here) == usual
        sent, held, runs = sent + mine, held + (good if same else 0), runs + 1
        shutil.rmtree(here)
    name = f"USR1 or TERM at a random moment, {plan.strategy}, {ranks(plan)}, {plan.workers} workers"
    told = f"no hang, at most {slowest} step of delay; {runs} runs ended like the undisturbed one"
    return Faulted(name, sent, held, told, time.monotonic() - began)


def disk(folder: Path, strategy: str, share: float) -> Faulted:
    """Full command-line runs in which each open, write, fsync, rename and unlink fails once, or kills the process."""
    began = time.monotonic()
    found = disk_faults.campaign(folder, strategy, share)
    trials, broken = found["runs"], len(found["wrong"])
    told = f"{found['calls']} calls; no acknowledged save lost; resumed, it ends like the undisturbed one"
    for wrong in found["wrong"][:5]:
        told += f"; {wrong['fault']['kind']} at {wrong['fault']['call']}: {wrong['wrong'][:80]}"
    name = f"ENOSPC, EIO or a kill at each call on the disk, {strategy}"
    return Faulted(name, trials, trials - broken, told, time.monotonic() - began)


def see_planted(folder: Path) -> Faulted:
    """Plants earlier bugs in a copy of the project, one at a time: the trials above have to detect each."""
    began, library = time.monotonic(), disk_faults.build(folder)
    script = ROOT / "tests/support/planted_faults.py"
    env = {**os.environ, "LD_PRELOAD": str(library), "OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu"}
    subprocess.run([sys.executable, script, folder], env=env, check=True, capture_output=True)
    rows = json.loads((folder / "planted.json").read_text(encoding="utf-8"))
    seen = [row["letter"] for row in rows if row["seen"]]
    told, took = f"seen: {', '.join(seen)}", time.monotonic() - began
    return Faulted("an earlier bug, planted: the runs above detect it", len(rows), len(seen), told, took)


def ranks(plan: Plan) -> str:
    return "1 process" if plan.world == 1 else f"{plan.world} ranks"


def worlds(folder: Path) -> Faulted:
    """1 -> 2 -> 4 -> 1 processes within one run: the same global order, no sample missing or repeated."""
    began, plan = time.monotonic(), Plan()
    kills.straight(plan, folder / "straight")
    here, strides = folder / "changing", [(1, 2), (2, 4), (4, 6), (1, 8)]
    for world, iterations in strides:
        part = replace(plan, strategy="ddp" if world > 1 else "one", world=world, iterations=iterations)
        to_the_end(part, here)
    found = kills.samples(replace(plan, world=4), here)
    expected = kills.samples(plan, folder / "straight")
    held = sum(found.get(i) == used for i, used in expected.items())
    return Faulted("world size 1, 2, 4, 1", len(expected), held, "global order of samples", time.monotonic() - began)


TESTS = {
    "crash at every write, fsync and rename of a save": "tests/runtime/test_atomic_folder.py",
    "full disk, damage, half an accumulation": "tests/callbacks/checkpointing/test_checkpoints.py",
    "a disk that is full for one rank of two": "tests/callbacks/checkpointing/test_disk.py",
    "preemption signals, further": "tests/callbacks/checkpointing/test_preempt.py",
    "a rank that stops answering": "tests/callbacks/monitoring/test_heartbeat.py",
    "12 kinds of bad data at 5% of samples; above a share": "tests/datamodules/shards/test_skip_log.py",
    "stop at each sample, world sizes, workers": "tests/datamodules/shards/test_sampler.py",
    "hostile shards and videos": "tests/datamodules/shards/test_safe_decode.py",
    "hostile checkpoints": "tests/weights/test_files.py",
    "hostile checkpoints in pieces": "tests/weights/test_sharded_checkpoint.py",
    "NaN and spikes in losses and gradients": "tests/training/test_manual_optimization.py",
    "SLURM: preempted, requeued, finished": "tests/launch/test_slurm.py",
    "SLURM: walltime over in training": "tests/launch/test_walltime.py",
}
"""Faults whose trials are tests."""


def tested(fault: str, path: str) -> Faulted:
    began = time.monotonic()
    command = [sys.executable, "-m", "pytest", "--durations=0", path]
    found = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    counts = {word: int(n) for n, word in re.findall(r"(\d+) (passed|failed|skipped|error)", found.stdout)}
    passed, wrong = counts.get("passed", 0), counts.get("failed", 0) + counts.get("error", 0)
    told = path + (f", {counts['skipped']} skipped" if counts.get("skipped") else "")
    return Faulted(fault, passed + wrong, passed if found.returncode == 0 else 0, told, time.monotonic() - began)


def fault_trials(share: float, zero: bool) -> Iterator[tuple[str, Callable[[Path], Faulted]]]:
    """(name, function that runs it), in the order of the table."""

    def at(name: str, act: Callable[..., Faulted], plan: Plan, count: float) -> tuple[str, Callable[[Path], Faulted]]:
        many = max(2, round(count * share))
        return f"{name} {plan.strategy} {plan.workers}", lambda folder: act(folder, plan, many)

    sharded = ["zero1", "zero2", "zero3"] if zero else []
    yield at("kill", sigkills, Plan("ddp", 2), 200)
    yield at("kill", sigkills, Plan(), 100)
    for strategy in sharded[1:]:
        yield at("kill", sigkills, Plan(strategy, 2, iterations=6), 20)
    for strategy in ("one", "ddp", *sharded):
        for workers in (0, 2):
            world = 1 if strategy == "one" else 2
            yield at("stop", stops, Plan(strategy, world, data="shards", workers=workers), 40)
    yield at("preempt", preemptions, Plan(data="shards", workers=2, every=3), 30)
    yield at("preempt", preemptions, Plan("ddp", 2, data="shards", workers=2, every=3), 40)
    for strategy in sharded[1:]:
        yield at("preempt", preemptions, Plan(strategy, 2, data="shards", iterations=6, every=3), 15)
    yield "worlds", worlds
    for strategy in ("one", "shards", "ddp", *(["zero2"] if zero else [])):
        if shutil.which("cc"):
            yield f"disk {strategy}", lambda folder, strategy=strategy: disk(folder, strategy, share)
    if shutil.which("cc"):
        yield "planted", see_planted


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--share", type=float, default=1.0, help="fraction of the trials to run")
    parser.add_argument("--only", default="", help="names that match, e.g. 'kill zero', 'stop', 'preempt ddp', 'tests'")
    parser.add_argument("--out", type=Path, default=Path("runs/faults.json"))
    args = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    console, found = Console(), list[Faulted]()
    try:
        import deepspeed  # noqa: F401

        zero = True
    except ImportError:
        console.print("deepspeed is not installed: no ZeRO here")
        zero = False

    def show(outcome: Faulted) -> None:
        found.append(outcome)
        good = "[green]held[/]" if outcome.held == outcome.trials else "[red]BROKEN[/]"
        console.print(f"{good} {outcome.held}/{outcome.trials} {outcome.fault} ({outcome.seconds:.0f} s)")
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(
            json.dumps([asdict(o) for o in found], indent=1), encoding="utf-8"
        )  # print each outcome at once: the whole takes an hour

    for name, fault in fault_trials(args.share, zero):
        if not re.search(args.only, name):
            continue
        with tempfile.TemporaryDirectory() as folder:
            try:
                show(fault(Path(folder)))
            except Exception as error:
                show(Faulted(name, 1, 0, str(error)[-400:], 0.0))
                console.print(str(error)[-2000:])
    for name, path in TESTS.items():
        if re.search(args.only, f"tests {name}"):
            show(tested(name, path))
    table = Table("fault", "trials", "held", "what was compared", "s")
    for o in found:
        table.add_row(o.fault, str(o.trials), str(o.held), o.told, f"{o.seconds:.0f}")
    console.print(table)
    if any(o.held < o.trials for o in found):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
