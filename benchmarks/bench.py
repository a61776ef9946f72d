"""`make bench`: speed of streams and training steps compared with a plain implementation, measured side by side.

All variants of a row take turns within every round, so that other work on the machine slows all of them alike; the
result is the ratio within a round, as median and quartiles over the rounds.

    make bench                                            streams and training steps on a CPU
    make bench ARGS='--parts training'                    training steps alone
    make bench ARGS='--parts live'                        live sessions: how many at the video's rate, and a server
    make bench ARGS='--shapes wan_1_3b --device cuda'     on a GPU: checks, times, pictures/s, MFU, memory, profile
    make bench ARGS='--growth 2000'                       time and memory per chunk against length, and a figure
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from adastate.runtime import threads

threads.prepare()  # as in the commands, before torch is imported

import torch  # noqa: E402
from rich.console import Console  # noqa: E402

from adastate.models import attention  # noqa: E402
from benchmarks import stream, training  # noqa: E402
from benchmarks.gpu import on_gpu  # noqa: E402
from benchmarks.growth import growth  # noqa: E402
from benchmarks.shapes import SHAPES, STREAMS  # noqa: E402


def bench_arguments(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--parts", nargs="+", default=["stream", "training"], choices=["stream", "training", "live"])
    add("--shapes", nargs="+", default=["small", "large"], choices=SHAPES, help="of the streams")
    add("--streams", nargs="+", default=["self_forcing, window 6", "adastate"], choices=STREAMS)
    add("--live-size", default="tiny", choices=["tiny", "flight"], help="the bundled student of --parts live (tiny)")
    add("--engines", nargs="+", default=["eager"], choices=["eager", "compile", "graph"])
    add("--fp8", action="store_true", help="also run every bfloat16 engine with products in FP8")
    add("--attention", default="sdpa", help="sdpa, flash_attn, flash3, flash4 or flex")
    add("--float32", action="store_true", help="only float32")
    add("--rounds", type=int, default=7)
    add("--device", default="cpu")
    add("--growth", type=int, default=0, help="measure growth instead, over streams of this many chunks")
    add("--no-guard", action="store_true", help="do not fail if we are not faster than the plain path")
    add("--out", type=Path, default=Path("runs/bench.json"))
    return parser.parse_args(argv)


def main() -> None:
    args, console = bench_arguments(), Console(width=None if sys.stdout.isatty() else 150)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    machine = f"{platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}"
    if args.device.startswith("cuda"):
        machine = f"{torch.cuda.get_device_name()}, torch {torch.__version__}"
    console.print(attention.use(args.attention), highlight=False)
    if args.growth:
        found = growth(args.growth, args.out.with_name("growth.png"))
        args.out.with_name("growth.json").write_text(json.dumps(found), encoding="utf-8")
        console.print(f"{args.out.with_name('growth.png')} and growth.json")
        return
    dtypes = [torch.float32] if args.float32 else [torch.float32, torch.bfloat16]
    rows: list[stream.StreamRow] = []
    steps: list[training.StepRow] = []
    live: dict[str, Any] = {}

    def write() -> None:
        made: dict[str, Any] = {"rows": [asdict(r) for r in rows], "training": [asdict(r) for r in steps]}
        made |= {"live": live} if live else {}
        args.out.write_text(json.dumps({"machine": machine, **made}, indent=1), encoding="utf-8")

    for name in args.shapes if "stream" in args.parts else []:
        for kind in args.streams:
            if args.device.startswith("cuda") and name.startswith("wan"):
                rows += on_gpu(name, kind, args.engines, args.fp8, args.device, args.out)
            else:
                rows += stream.measure_stream(name, kind, dtypes, args.engines, args.fp8, args.rounds, args.device)
            write()
    for dtype in dtypes if "training" in args.parts else []:
        steps += training.measure_steps(dtype, args.rounds, args.device)
        write()
    if "live" in args.parts:
        from benchmarks import live_sessions

        live = live_sessions.measure_sessions(args.rounds, args.live_size)
        write()
        for part in live_sessions.session_tables(live, machine):
            console.print(part, highlight=False)
    if rows:
        console.print(stream.stream_table(rows, machine))
    for row in rows:
        if row.more.get("pictures_s"):
            console.print(f"{row.shape}, {row.stream}, {row.variant}: {row.more}", highlight=False)
    if steps:
        console.print(training.steps_table(steps, machine))
    slow, far = (a + b for a, b in zip(stream.faults_of_stream(rows), training.faults_of_steps(steps), strict=True))
    far += live_sessions.faults_of_sessions(live) if live else []
    for sentence in (*slow, *far):
        console.print(f"[red]{sentence}")
    if (slow and not args.no_guard) or far:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
