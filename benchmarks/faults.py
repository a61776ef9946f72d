"""`make faults`: breaks runs in every way that we know of, many times, and prints what came of it.

Runs are the real Distill at its smallest, on processes forked from this one. `--share 0.05` does a twentieth of it.
A row is `held` if every trial was; the exit status is 1 otherwise.
"""

from __future__ import annotations

import argparse
import json
import os
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

from tests import kills  # noqa: E402
from tests.kills import Plan  # noqa: E402


@dataclass(frozen=True)
class Outcome:
    fault: str
    trials: int
    held: int
    told: str
    seconds: float


def sigkills(folder: Path, plan: Plan, wanted: int) -> Outcome:
    """SIGKILL at random moments of steps, saves and pruning, over as many runs as it takes."""
    began, deaths, held, runs = time.monotonic(), 0, 0, 0
    expected, seconds = kills.straight(plan, folder / "straight")
    while deaths < wanted:
        here = folder / f"run{runs}"
        found, died = kills.killed(plan, here, min(8, wanted - deaths), seconds, seed=runs)
        same = kills.samples(plan, here) == kills.samples(plan, folder / "straight")
        held += died if found == expected and same else 0
        deaths, runs = deaths + died, runs + 1
        shutil.rmtree(here)
    name = f"SIGKILL at a random moment, {plan.strategy}, {plan.world} ranks"
    return Outcome(name, deaths, held, f"{runs} runs, each ended as the undisturbed one", time.monotonic() - began)


def stops(folder: Path, plan: Plan) -> Outcome:
    """Stopped after every single step once, and gone on with."""
    began = time.monotonic()
    if plan.data == "shards":
        kills.make_shards(folder)
    expected, _ = kills.straight(plan, folder / "straight")
    held = 0
    for at in range(1, plan.iterations):
        here = folder / f"at{at}"
        for part in (replace(plan, iterations=at), plan):
            for left in here.glob("done.*"):
                left.unlink()
            if not kills.wait(kills.launch(part, here), time.monotonic() + kills.LIMIT_S, here):
                raise RuntimeError(f"hangs:\n{kills.tail(here)}")
        same = kills.samples(plan, here) == kills.samples(plan, folder / "straight")
        held += kills.result(plan, here) == expected and same
        shutil.rmtree(here)
    name = f"stop at each step, {plan.strategy}, {plan.data}, {plan.workers} workers"
    return Outcome(name, plan.iterations - 1, held, "bit-equal, same samples", time.monotonic() - began)


def worlds(folder: Path) -> Outcome:
    """1 -> 2 -> 4 -> 1 processes within one run: the same global order, none missing, none twice."""
    began, plan = time.monotonic(), Plan()
    kills.straight(plan, folder / "straight")
    here, strides = folder / "changing", [(1, 2), (2, 4), (4, 6), (1, 8)]
    for world, iterations in strides:
        part = replace(plan, strategy="ddp" if world > 1 else "one", world=world, iterations=iterations)
        if not kills.wait(kills.launch(part, here), time.monotonic() + kills.LIMIT_S, here):
            raise RuntimeError(f"hangs:\n{kills.tail(here)}")
    found = kills.samples(replace(plan, world=4), here)
    expected = kills.samples(plan, folder / "straight")
    held = sum(found.get(i) == used for i, used in expected.items())
    return Outcome("world size 1, 2, 4, 1", len(expected), held, "global order of samples", time.monotonic() - began)


TESTS = {
    "crash at every write, fsync and rename of a save": "tests/callbacks/test_whole.py",
    "full disk, damage, half an accumulation": "tests/callbacks/test_checkpoints.py",
    "preemption signals": "tests/callbacks/test_preempt.py",
    "a rank that stops answering": "tests/callbacks/test_heartbeat.py",
    "bad data: counted once, replaced, refused above a share": "tests/datamodules/test_ledger.py",
    "stop at each sample, world sizes, workers": "tests/datamodules/test_order.py",
    "hostile shards and videos": "tests/datamodules/test_guard.py",
    "hostile checkpoints": "tests/weights/test_files.py",
    "NaN and spikes in losses and gradients": "tests/test_distill.py",
    "SLURM: preempted, requeued, finished": "tests/test_slurm.py",
}
"""Faults whose trials are tests."""


def tested(fault: str, path: str, keyword: str = "") -> Outcome:
    began = time.monotonic()
    command = [sys.executable, "-m", "pytest", "-q", "--durations=0", path, *(["-k", keyword] if keyword else [])]
    found = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    counts = {word: int(n) for n, word in re.findall(r"(\d+) (passed|failed|skipped|error)", found.stdout)}
    if not counts:  # quiet mode prints dots alone
        dots = re.findall(r"^[.sFEx]+", found.stdout, re.M)
        counts = {"passed": sum(d.count(".") for d in dots), "failed": sum(d.count("F") + d.count("E") for d in dots)}
        counts["skipped"] = sum(d.count("s") for d in dots)
    passed, wrong = counts.get("passed", 0), counts.get("failed", 0) + counts.get("error", 0)
    told = path + (f", {counts['skipped']} skipped" if counts.get("skipped") else "")
    return Outcome(fault, passed + wrong, passed if found.returncode == 0 else 0, told, time.monotonic() - began)


def plans(share: float, zero: bool) -> Iterator[Callable[[Path], Outcome]]:
    many = max(2, round(200 * share))
    yield lambda folder: sigkills(folder, Plan("ddp", 2), many)
    yield lambda folder: sigkills(folder, Plan(), max(2, many // 2))
    steps = max(4, round(40 * share))
    strategies = ["one", "ddp", *(["zero1", "zero2", "zero3"] if zero else [])]
    for strategy in strategies:
        for workers in (0, 2):
            plan = Plan(strategy, 1 if strategy == "one" else 2, data="shards", workers=workers, iterations=steps)
            yield lambda folder, plan=plan: stops(folder, plan)  # type: ignore[misc]
    yield worlds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--share", type=float, default=1.0, help="of the trials")
    parser.add_argument("--no-tests", action="store_true", help="only the faults that are no tests")
    parser.add_argument("--out", type=Path, default=Path("runs/faults.json"))
    args = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    console, found = Console(), list[Outcome]()
    try:
        import deepspeed  # noqa: F401

        zero = True
    except ImportError:
        console.print("deepspeed is not installed: no ZeRO here")
        zero = False

    def show(outcome: Outcome) -> None:
        found.append(outcome)
        good = "[green]held[/]" if outcome.held == outcome.trials else "[red]BROKEN[/]"
        console.print(f"{good} {outcome.held}/{outcome.trials} {outcome.fault} ({outcome.seconds:.0f} s)")

    for number, fault in enumerate(plans(args.share, zero)):
        with tempfile.TemporaryDirectory() as folder:
            try:
                show(fault(Path(folder)))
            except Exception as error:
                show(Outcome(f"fault {number}", 1, 0, str(error)[-400:], 0.0))
                console.print(str(error)[-2000:])
    if not args.no_tests:
        for name, path in TESTS.items():
            if (ROOT / path).is_file():
                show(tested(name, path))
    table = Table("fault", "trials", "held", "what was compared", "s")
    for o in found:
        table.add_row(o.fault, str(o.trials), str(o.held), o.told, f"{o.seconds:.0f}")
    console.print(table)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps([asdict(o) for o in found], indent=1))
    if any(o.held < o.trials for o in found):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
