"""`make gpu-check`: checks this project on a GPU, in at most five minutes.

Each phase runs in its own process with its own time limit, and updates OUT/<phase>.json as it proceeds: a phase that is
killed, hangs or runs out of memory does not affect the others, and its results so far remain. Without a GPU every phase
runs at the smallest size, or says why it does not: a rehearsal.

    make gpu-check                                        on this machine's GPU, or a rehearsal
    make gpu-check ARGS='--only streams --budget 120'     one phase
    benchmarks/gpu.sh                                     this, and the flight world's teacher if time is left
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.gpu_report import PhaseReport, short_reason  # noqa: E402

PHASES = {
    "environment": 30.0,
    "told": 150.0,
    "tests": 60.0,
    "kernels": 45.0,
    "streams": 75.0,
    "training": 80.0,
    "fast_paths": 90.0,
}
"""Maximum seconds of each phase, in their order. `told` needs no GPU and runs beside the others."""

BUDGET = 300.0
"""Total seconds; if more are given, each phase gets more."""

LEAST = 5.0
"""Minimum seconds left for a phase to start."""


def check_arguments(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=list(PHASES), default=list(PHASES))
    parser.add_argument("--budget", type=float, default=BUDGET, help="seconds, of all phases together")
    parser.add_argument("--device", choices=["cuda", "cpu"], help="default: a GPU if there is one")
    parser.add_argument("--tiny", action="store_true", help="the smallest shapes, even on a GPU")
    parser.add_argument("--out", type=Path, default=Path("runs/gpu-check"))
    parser.add_argument("--phase", choices=list(PHASES), help=argparse.SUPPRESS)
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    args = check_arguments(argv)
    if args.phase:
        run_phase(args)
        return
    began, wrong = time.monotonic(), 0
    args.out.mkdir(parents=True, exist_ok=True)
    for name in PHASES:
        (args.out / f"{name}.json").unlink(missing_ok=True)
    beside: dict[str, tuple[subprocess.Popen[bytes], float]] = {}
    for name in args.only:
        seconds = min(PHASES[name] * max(1.0, args.budget / BUDGET), args.budget - (time.monotonic() - began))
        if seconds < LEAST:
            PhaseReport(args.out / f"{name}.json", name, "", False).end("no time", 0.0, "the budget is spent")
            continue
        process = start_phase(args, name, seconds)
        if name == "told" and len(args.only) > 1:
            beside[name] = process, time.monotonic() + seconds
            continue
        end(process, seconds)
        wrong += show_phase(close(args.out, name))
    for name, (process, until) in beside.items():
        left = min(until, began + args.budget) - time.monotonic()
        end(process, max(0.0, left))
        wrong += show_phase(close(args.out, name))
    summary = summarise(args.out)
    summary["seconds"] = round(time.monotonic() - began, 1)
    (args.out / "summary.json").write_text(json.dumps(summary, indent=1), encoding="utf-8")
    print(f"{summary['seconds']:.0f} s; figures in {args.out}/*.json")
    raise SystemExit(1 if wrong else 0)


def start_phase(args: argparse.Namespace, name: str, seconds: float) -> subprocess.Popen[bytes]:
    command = [sys.executable, str(Path(__file__).resolve()), "--phase", name, "--budget", f"{seconds:.1f}"]
    command += ["--out", str(args.out), *(["--device", args.device] if args.device else []), *["--tiny"] * args.tiny]
    log = (args.out / f"{name}.log").open("wb")
    return subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=subprocess.STDOUT, start_new_session=True)


def end(process: subprocess.Popen[bytes], seconds: float) -> None:
    """Waits up to `seconds`, then kills the process and everything that it has started."""
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def close(out: Path, name: str) -> dict[str, Any]:
    """Results of a phase; marks one that was killed as such."""
    path = out / f"{name}.json"
    try:
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        found = {"phase": name, "status": "running", "rows": [], "skipped": [], "wrong": []}
    if found["status"] == "running":
        log = out / f"{name}.log"
        said = log.read_text(encoding="utf-8", errors="replace").strip()[-600:] if log.is_file() else ""
        found |= {"status": "cut short", "reason": short_reason(said.splitlines()[-1] if said else "its time was over")}
        path.write_text(json.dumps(found, indent=1), encoding="utf-8")
    return found


def show_phase(found: dict[str, Any]) -> int:
    """Prints a phase; returns its number of errors."""
    seconds = found.get("seconds")
    print(f"{found['phase']}: {found['status']}{'' if seconds is None else f', {seconds} s'} {found.get('reason', '')}")
    for row in found["rows"]:
        told = {k: round(v, 4) if isinstance(v, float) else v for k, v in row.items() if not isinstance(v, dict)}
        print("   ", ", ".join(f"{k} {v}" for k, v in told.items()))
    for skipped in found["skipped"]:
        print(f"    skipped: {skipped['what']}: {skipped['reason']}")
    for sentence in found["wrong"]:
        print(f"    WRONG: {sentence}")
    return len(found["wrong"]) + (found["status"] == "failed")


def summarise(out: Path) -> dict[str, Any]:
    """All phases, and an iteration's memory beside the predicted one."""
    phases = {p.stem: json.loads(p.read_text(encoding="utf-8")) for p in sorted(out.glob("*.json")) if p.stem in PHASES}
    measured = next(
        (r for r in phases.get("training", {}).get("rows", []) if r["what"] == "iteration" and r.get("peak")), None
    )
    against = {
        row["command"]: row["peak"] / measured["peak"]
        for row in phases.get("told", {}).get("rows", [])
        if measured and isinstance(row.get("peak"), (int, float))
    }
    return {"status": {name: found["status"] for name, found in phases.items()}, "told_over_measured": against}


def run_phase(args: argparse.Namespace) -> None:
    """Runs one phase in this process."""
    began = time.monotonic()
    import torch

    device = args.device or ("cuda" if torch.cuda.is_available() else "cpu")
    report = PhaseReport(args.out / f"{args.phase}.json", args.phase, device, args.tiny or device == "cpu")
    try:
        _work(args.phase, report, args.budget)
    except Exception as error:
        import traceback

        traceback.print_exc()
        report.end("failed", time.monotonic() - began, short_reason(error))
        raise SystemExit(1) from error
    report.end("done", time.monotonic() - began)


def _work(phase: str, report: PhaseReport, seconds: float) -> None:
    # each phase imports what it needs: a missing package affects no other phase
    if phase in ("environment", "tests", "told"):
        from benchmarks import gpu_machine

        if phase == "environment":
            gpu_machine.environment(report)
        elif phase == "tests":
            gpu_machine.pytest_gpu(report, seconds - 2)
        else:
            gpu_machine.told_beforehand(report, seconds / 2)
    elif phase in ("kernels", "fast_paths"):
        from benchmarks import gpu_kernels

        (gpu_kernels.kernels if phase == "kernels" else gpu_kernels.fast_paths)(report)
    elif phase == "streams":
        from benchmarks.gpu_streams import streams

        streams(report, seconds - 10)
    else:
        from benchmarks.gpu_training import training

        training(report, seconds)


if __name__ == "__main__":
    main()
