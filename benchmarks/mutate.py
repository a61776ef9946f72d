"""`make mutate`: plants one small fault at a time in the core, and counts those that no test detects.

A mutant is one fault in a copy of the project, never in its own files. It is run against the tests that reach its
statement, the fastest first, until one fails, in a process forked from one that has imported torch. A mutant that hangs
or cannot be imported counts as killed. Which test reaches which line is recorded by running all of them once
(OUT/map.json, updated for the test files that changed, or for all if the source did). Mutants that are equivalent to
the original are explained in mutants_equivalent.txt and not tried. `--mutant 17` shows one, and the output of its
tests.

The exit status is 1 if less than 90% of the others are killed.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.mutants import Mutant, changed_lines, explained, planted  # noqa: E402

HEART = ("adastate/stream", "adastate/diffusion", "adastate/training/objectives")
TESTS = (
    "tests/stream",
    "tests/diffusion",
    "tests/training",
    "tests/parity",
    "tests/live/test_batch.py",
    "tests/test_golden.py",
)
SOURCES = ("adastate/**/*.py", "conf/**/*.yaml", "tests/support/*.py", "tests/conftest.py")
"""Files on which every test may depend."""
COPIED = ("adastate", "callbacks", "datamodules", "conf", "tests", "benchmarks", "docs", "README.md", "pyproject.toml")
EQUIVALENT = ROOT / "benchmarks/mutants_equivalent.txt"
WARM = (
    "torch", "lightning.pytorch", "einops", "jaxtyping", "beartype", "safetensors.torch", "jsonargparse", "omegaconf",
    "webdataset", "PIL.Image", "torch.utils.checkpoint", "torch._dynamo",
)  # fmt: skip
"""Imported once, instead of by every mutant."""
ENOUGH = 0.9
SHOWN_S = 60.0
"""Maximum seconds of tests per mutant."""
Tests = Mapping[str, tuple[float, dict[str, list[int]]]]
"""For every test: its seconds, and the lines that it reaches by file."""


class LineRecorder:
    """A pytest plugin that records the seconds of each test that passes, and the lines of the core that it reaches."""

    def __init__(self, files: Sequence[str]) -> None:
        self.names = {f"{os.getcwd()}/{file}": file for file in files}
        self.lines: dict[str, set[int]] = {}
        self.passed: set[str] = set()
        self.tests: dict[str, tuple[float, dict[str, list[int]]]] = {}

    def trace(self, frame: FrameType, event: str, arg: object) -> Any:
        file = self.names.get(frame.f_code.co_filename)
        if file is None:
            return None
        lines = self.lines.setdefault(file, set())

        def each(frame: FrameType, event: str, arg: object) -> Any:
            lines.add(frame.f_lineno)
            return each

        return each(frame, event, arg)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Iterator[None]:
        self.lines, began = {}, time.monotonic()
        threading.settrace(self.trace), sys.settrace(self.trace)
        try:
            return (yield)
        finally:
            sys.settrace(None), threading.settrace(None)  # type: ignore[arg-type]
            seen = {file: sorted(lines) for file, lines in self.lines.items()}
            if item.nodeid in self.passed:
                self.tests[item.nodeid] = (round(time.monotonic() - began, 2), seen)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when == "call" and report.passed:
            self.passed.add(report.nodeid)


class Chosen:
    """A pytest plugin that runs given tests in order, and writes down the first that fails."""

    def __init__(self, ids: Sequence[str], verdict: Path) -> None:
        self.place, self.verdict = {name: i for i, name in enumerate(ids)}, verdict

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        items[:] = sorted((i for i in items if i.nodeid in self.place), key=lambda item: self.place[item.nodeid])

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            self.verdict.write_text(report.nodeid, encoding="utf-8")


def forked(folder: Path, log: Path, files: Sequence[str], plugin: Any, out: Path | None = None) -> int:
    """The process id of a pytest over `files` of a copy; a LineRecorder's results go to `out`."""
    if pid := os.fork():
        return pid
    code = 70
    try:
        os.setpgid(0, 0), os.chdir(folder), sys.path.insert(0, str(folder))
        os.environ["PYTHONPATH"] = str(folder)
        to = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(to, 1), os.dup2(to, 2)
        made = plugin() if callable(plugin) else plugin
        stop = [] if out else ["-x"]
        code = int(pytest.main(["-p", "no:cacheprovider", "-m", "not slow and not minutes", *stop, *files], [made]))
        if out:
            out.write_text(json.dumps(made.tests), encoding="utf-8")
    finally:
        sys.stdout.flush(), sys.stderr.flush()
        os._exit(code)


def digest(paths: Sequence[Path]) -> str:
    return hashlib.sha256(b"".join(p.read_bytes() for p in paths)).hexdigest()


def recorded(out: Path, folder: Path, files: Sequence[str]) -> Tests:
    """What all tests reach: from OUT/map.json, recorded again for test files that have changed."""
    kept: dict[str, Any] = (
        json.loads((out / "map.json").read_text(encoding="utf-8")) if (out / "map.json").is_file() else {}
    )
    base = digest([p for pattern in SOURCES for p in sorted(ROOT.glob(pattern))])
    paths = [p for t in TESTS for p in sorted((ROOT / t).rglob("test_*.py") if (ROOT / t).is_dir() else [ROOT / t])]
    now = {str(p.relative_to(ROOT)): base + digest([p]) for p in paths}
    kept = {file: notes for file, notes in kept.items() if now.get(file) == notes["digest"]}
    missing = [file for file in now if file not in kept]
    if missing:
        print(f"recording what the tests of {len(missing)} files reach; progress is in {out}/map.log", flush=True)
        os.waitpid(forked(folder, out / "map.log", missing, lambda: LineRecorder(files), out / "new.json"), 0)
        fresh = json.loads((out / "new.json").read_text(encoding="utf-8"))
        for file in missing:
            kept[file] = {"digest": now[file], "tests": {n: t for n, t in fresh.items() if n.split("::")[0] == file}}
        (out / "map.json").write_text(json.dumps(kept), encoding="utf-8")
    return {name: tuple(test) for notes in kept.values() for name, test in notes["tests"].items()}


def reaching(mutant: Mutant, tests: Tests) -> list[str]:
    """Tests, a minute in total, that reach a mutant, the quick ones first; for code outside functions all tests that
    reach the file. Tests of similar duration stay grouped by file, as they share fixtures."""
    first, last = mutant.lines or (0, sys.maxsize)
    found = [
        (round(seconds * 2), name.split("::")[0], seconds, name)
        for name, (seconds, seen) in tests.items()
        if any(first <= line <= last for line in seen.get(mutant.file, ()))
    ]
    chosen, spent = list[str](), 0.0
    for _, _, seconds, name in sorted(found):
        spent += seconds
        if chosen and spent > SHOWN_S:
            break
        chosen.append(name)
    return chosen


@dataclass
class MutantTrial:
    number: int
    folder: Path
    ends: float


class Field:
    """Copies of the project, in each of which one mutant at a time is tried."""

    def __init__(self, folders: list[Path], sources: Mapping[str, str], tests: Tests, out: Path) -> None:
        self.free, self.sources, self.tests, self.out = folders, sources, tests, out
        self.running: dict[int, MutantTrial] = {}
        self.stamp = int(time.time())

    def write(self, folder: Path, file: str, text: str) -> None:
        """Writes with a distinct modification time: caches of compiled files are keyed by time and length."""
        self.stamp += 1
        (folder / file).write_text(text, encoding="utf-8")
        os.utime(folder / file, (self.stamp, self.stamp))

    def plant(self, number: int, mutant: Mutant, ids: Sequence[str]) -> None:
        folder = self.free.pop()
        self.write(folder, mutant.file, mutant.source(self.sources[mutant.file]))
        files = list(dict.fromkeys(name.split("::")[0] for name in ids))
        pid = forked(folder, self.out / f"{folder.name}.log", files, Chosen(ids, folder / "verdict"))
        limit = 30 + 5 * sum(self.tests[name][0] for name in ids)
        self.running[pid] = MutantTrial(number, folder, time.monotonic() + limit)

    def reap(self, mutants: Mapping[int, Mutant]) -> Iterator[tuple[int, str, str]]:
        for pid, trial in list(self.running.items()):
            ended, status = os.waitpid(pid, os.WNOHANG)
            late = time.monotonic() > trial.ends
            if not ended and not late:
                continue
            if not ended:
                os.killpg(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
            verdict, file = trial.folder / "verdict", mutants[trial.number].file
            by = verdict.read_text(encoding="utf-8") if verdict.is_file() else "a hang" if late else "its import"
            verdict.unlink(missing_ok=True)
            self.write(trial.folder, file, self.sources[file])
            self.free.append(self.running.pop(pid).folder)
            yield (trial.number, "survived", "") if ended and status == 0 else (trial.number, "killed", by)

    def tried(self, mutants: Mapping[int, Mutant], until: float) -> Iterator[tuple[int, str, str]]:
        """(number, killed or survived, by which test) of each mutant as it finishes; none begins after `until`."""
        waiting = list(mutants)
        try:
            while self.running or (waiting and time.monotonic() < until):
                while waiting and self.free and time.monotonic() < until:
                    number = waiting.pop(0)
                    ids = reaching(mutants[number], self.tests)
                    if ids:
                        self.plant(number, mutants[number], ids)
                    else:
                        yield number, "survived", "no test reaches it"
                yield from self.reap(mutants)
                time.sleep(0.05)
        finally:
            for pid in self.running:
                os.killpg(pid, signal.SIGKILL)


def parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--number", type=int, default=300, help="mutants drawn (300)")
    parser.add_argument("--seed", type=int, default=0, help="of the draw (0)")
    parser.add_argument("--jobs", type=int, default=2, help="at a time (2)")
    parser.add_argument("--file", help="mutants of this file alone")
    parser.add_argument("--mutant", type=int, help="shows one by its number, and what its tests say")
    parser.add_argument("--minutes", type=float, default=60, help="no mutant begins later (60)")
    parser.add_argument("--out", type=Path, default=ROOT / "runs/mutate", help="for the map, the results and logs")
    return parser.parse_args(arguments)


def report(out: Path, sources: Mapping[str, str], found: Mapping[int, tuple[Mutant, str, str]], left: int) -> int:
    """The table, OUT/survivors.diff and OUT/results.json; the exit status."""
    survivors = sorted(n for n, (_, verdict, _) in found.items() if verdict == "survived")
    diffs = (f"{n}\n{found[n][0].diff(sources[found[n][0].file])}" for n in survivors)
    (out / "survivors.diff").write_text("\n\n".join(diffs), encoding="utf-8")
    results = [{"number": n, "verdict": v, "by": by, **asdict(m)} for n, (m, v, by) in sorted(found.items())]
    (out / "results.json").write_text(json.dumps(results, indent=1), encoding="utf-8")
    table = Table("file", "mutants", "killed", "equivalent", "survived", box=None)
    for file in [*sorted({m.file for m, *_ in found.values()}), "all"]:
        counts = Counter(verdict for m, verdict, _ in found.values() if file in (m.file, "all"))
        table.add_row(file, str(counts.total()), *(str(counts[v]) for v in ("killed", "equivalent", "survived")))
    Console().print(table)
    verdicts = Counter(verdict for _, verdict, _ in found.values())
    killed, of = verdicts["killed"], len(found) - verdicts["equivalent"]
    print(f"{killed} of {of} killed ({killed / max(of, 1):.1%}); {verdicts['equivalent']} more change nothing")
    print(f"{left} were not tried for lack of time; the survivors are in {out}/survivors.diff")
    return int(killed < ENOUGH * of)


def main(arguments: Sequence[str] | None = None) -> int:
    args = parsed(arguments)
    until, out = time.monotonic() + 60 * args.minutes, args.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    paths = [p for part in HEART for p in sorted((ROOT / part).rglob("*.py"))]
    sources = {str(p.relative_to(ROOT)): p.read_text(encoding="utf-8") for p in paths}
    every = [m for file, text in sources.items() if args.file in (None, file) for m in planted(file, text)]
    picked = dict(enumerate(random.Random(args.seed).sample(every, min(args.number, len(every)))))
    reasons = explained(EQUIVALENT.read_text(encoding="utf-8"))
    for file, old, _ in reasons:
        if old not in map(str.strip, sources.get(file, "").splitlines()):
            print(f"{EQUIVALENT.name} explains a line that {file} no longer has: {old}")
    found = {n: (m, "equivalent", "") for n, m in picked.items() if changed_lines(m, sources[m.file]) in reasons}
    rest = {n: m for n, m in picked.items() if n not in found}
    if args.mutant is not None:
        rest, found = {args.mutant: picked[args.mutant]}, {}
        print(picked[args.mutant].diff(sources[picked[args.mutant].file]))
    for name in WARM:
        importlib.import_module(name)
    with tempfile.TemporaryDirectory(prefix="mutate", ignore_cleanup_errors=True) as made:
        folders = [Path(made).resolve() / f"copy{i}" for i in range(max(1, min(args.jobs, len(rest))))]
        for folder in folders:
            folder.mkdir()
            for name in COPIED:
                copied = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
                copied(ROOT / name, folder / name)  # type: ignore[operator]
        field = Field(list(folders), sources, recorded(out, folders[0], list(sources)), out)
        for n, verdict, by in field.tried(rest, until):
            found[n] = rest[n], verdict, by
            print(f"{n:4} {verdict:9} {rest[n].file}:{rest[n].line} {rest[n].kind}  {by}", flush=True)
        if args.mutant is not None:
            print((out / f"{folders[0].name}.log").read_text(encoding="utf-8"))
            return 0
    return report(out, sources, found, len(rest) - sum(n in found for n in rest))


if __name__ == "__main__":
    sys.exit(main())
