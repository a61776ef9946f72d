"""`make bench`: how fast streams are, against a plain path and against the floor, in one sitting.

All variants of a row take turns within every round, so that a machine that others use slows all of them alike; what
counts is the ratio within a round, told as median and quartiles over the rounds. Passes are counted as the method has
them: the levels and a clean pass per chunk.

    make bench                                            the CPU shapes
    make bench ARGS='--shapes wan_1_3b --device cuda'     on a GPU: checks, times, pictures/s, MFU, memory, profile
    make bench ARGS='--growth 2000'                       time and memory per chunk against length, and a figure
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).parents[1]))

from adastate.net import DiT, attention
from adastate.net.engine import Engine
from adastate.net.fast import Passes, Streamer
from adastate.stream import StateCache, StreamSpec, rollout
from benchmarks.plain import PlainStream
from benchmarks.shapes import SHAPES, STREAMS, Floor, Normals, Shape, network

PICTURES = 4
"""Of a latent frame."""

GUARD = {"small": 1.4, "large": 0.95}
"""Least median ratio of the plain path's time to ours; a regression is below it, a busy machine is not."""


@dataclass
class Row:
    """One variant of one shape and stream.

    Attributes:
        ms: a pass, median and quartiles over the rounds.
        against: ratio of the reference's time to this one's within a round, likewise.
        floor: share of the floor in a pass, likewise.
        off: largest relative distance of its chunks from the simple path's.
    """

    shape: str
    stream: str
    variant: str
    ms: tuple[float, float, float]
    against: tuple[float, float, float] | None = None
    floor: tuple[float, float, float] | None = None
    off: float = 0.0
    told: dict[str, Any] = field(default_factory=dict)


class Clock:
    """Seconds, by device events on a GPU."""

    def __init__(self, device: str) -> None:
        self.cuda = device.startswith("cuda")

    def __call__(self) -> float:
        if self.cuda:
            torch.cuda.synchronize()
        return time.perf_counter()


def quartiles(values: list[float]) -> tuple[float, float, float]:
    """(median, low, high)."""
    if len(values) < 2:
        return (values[0],) * 3
    low, median, high = statistics.quantiles(values, n=4)
    return median, low, high


# ---- variants: each gives the seconds of every chunk, and the chunks

Made = tuple[list[float], list[torch.Tensor]]


def simple(net: DiT, text: torch.Tensor, shape: Shape, spec: StreamSpec, chunks: int, device: str) -> Made:
    """The network's own forward, and a cache that is made anew with every commit."""
    keys = net.text_keys(text)
    return streamed(lambda x, t, m: net(x, t, keys, memory=m), StateCache(spec), shape, spec, chunks, device)


def ours(passes: Passes, text: torch.Tensor, shape: Shape, spec: StreamSpec, chunks: int, device: str) -> Made:
    student = Streamer(passes.net, passes.net.text_keys(text), passes=passes)
    return streamed(student, StateCache(spec, layers=shape.size.layers), shape, spec, chunks, device)


@torch.no_grad()
def streamed(student: Any, cache: StateCache, shape: Shape, spec: StreamSpec, chunks: int, device: str) -> Made:
    """A chunk's seconds begin with its noise and end with its clean pass."""
    clock, noise = Clock(device), Normals(shape, spec, chunks, device)
    stream = rollout(student, noise, cache, chunks, shape.latents)
    seconds, made = [], []
    next_, began = next(stream, None), clock()
    while next_ is not None:
        made.append(next_.content.float().cpu() if len(made) < 8 else next_.content[:0])
        next_ = next(stream, None)
        seconds.append(clock() - began)  # the clean pass of this chunk and the levels of the next
        began = clock()
    return seconds[:-1], made


@torch.no_grad()
def plain(net: DiT, text: torch.Tensor, shape: Shape, spec: StreamSpec, chunks: int, device: str) -> Made:
    clock, noise = Clock(device), Normals(shape, spec, chunks, device)
    assert spec.past_frames is not None
    stream = PlainStream(net, text, spec.chunk_frames, spec.past_frames + spec.chunk_frames, spec.timesteps, spec.shift)
    seconds, made = [], []
    for _ in range(chunks):
        drawn = [noise.normal(spec.chunk_frames, *shape.latents) for _ in spec.steps]
        began = clock()
        made.append(stream.next(drawn[0], drawn[1:]).float().cpu())
        seconds.append(clock() - began)
    return seconds, made


# ---- rows


def measure(
    name: str, stream: str, dtypes: list[torch.dtype], engines: list[Engine], rounds: int, device: str
) -> list[Row]:
    """All variants of a shape and a stream, in turns."""
    shape, spec = SHAPES[name], STREAMS[stream]
    passes = len(spec.steps) + 1
    net, text = network(shape, device)
    warm = min(shape.chunks // 2, 8)
    variants: dict[str, Callable[[], Made]] = {}
    large = name.startswith("wan")
    if spec.position == "absolute" and spec.anchor == "none" and not large:
        variants["plain float32"] = lambda: plain(net, text, shape, spec, shape.chunks, device)
    variants["simple float32"] = lambda: simple(net, text, shape, spec, shape.chunks, device)
    reference = next(iter(variants))
    for dtype in dtypes:
        for engine in engines:
            made = Passes(net, dtype, engine)
            label = f"{engine} {str(dtype).removeprefix('torch.')}"
            variants[label] = lambda made=made: ours(made, text, shape, spec, shape.chunks, device)  # type: ignore[misc]
    floors = {str(d).removeprefix("torch."): Floor(shape, spec, device, d) for d in dtypes}
    times: dict[str, list[float]] = {v: [] for v in variants}
    floor_times: dict[str, list[float]] = {d: [] for d in floors}
    results: dict[str, list[torch.Tensor]] = {}
    for turn in range(rounds + 1):
        for label, run in variants.items():
            seconds, results[label] = run()
            if turn:
                times[label].append(statistics.median(seconds[warm:] or seconds) / passes)
        for label, floor in floors.items():
            with torch.no_grad():
                clock = Clock(device)
                took = []
                for _ in range(4 if name in ("large", "wan_1_3b") else 40):
                    began = clock()
                    floor()
                    took.append(clock() - began)
                if turn:
                    floor_times[label].append(statistics.median(took))
    rows = []
    for label, took in times.items():
        row = Row(name, stream, label, quartiles([1e3 * t for t in took]))
        row.against = quartiles([a / b for a, b in zip(times[reference], took, strict=True)])
        if (kind := label.split()[-1]) in floors:
            row.floor = quartiles([a / b for a, b in zip(floor_times[kind], took, strict=True)])
            row.told["floor_ms"] = 1e3 * statistics.median(floor_times[kind])
            row.told["tflops"] = floors[kind].flop / statistics.median(took) / 1e12
        row.off = distance(results[label], results["simple float32"])
        rows.append(row)
    return rows


def distance(a: list[torch.Tensor], b: list[torch.Tensor]) -> float:
    """Relative norm of the difference of the first chunks, the largest."""
    return max(float((x - y).norm() / y.norm()) for x, y in zip(a[:4], b[:4], strict=False))


def on_gpu(name: str, stream: str, engines: list[Engine], device: str, out: Path) -> Iterator[Row]:
    """Pictures a second, time to the first frame, MFU against the measured rate of products, memory, and a profile."""
    shape, spec = SHAPES[name], STREAMS[stream]
    net, text = network(shape, device, torch.bfloat16)
    rate = product_rate(device)
    floor = Floor(shape, spec, device, torch.bfloat16)
    for engine in engines:
        passes = Passes(net, torch.bfloat16, engine)
        ours(passes, text, shape, spec, 6, device)
        torch.cuda.reset_peak_memory_stats()
        began = time.perf_counter()
        first = next(iter(ours_stream(passes, text, shape, spec, device)))
        torch.cuda.synchronize()
        first_s = time.perf_counter() - began
        del first
        seconds, _ = ours(passes, text, shape, spec, shape.chunks, device)
        steady = seconds[8:]
        each = statistics.median(steady)
        row = Row(name, stream, f"{engine} bfloat16", quartiles([1e3 * s / (len(spec.steps) + 1) for s in steady]))
        row.told = {
            "pictures_s": spec.chunk_frames * PICTURES / each,
            "first_frame_s": first_s,
            "mfu": (len(spec.steps) + 1) * floor.flop / each / rate,
            "products_tflops": rate / 1e12,
            "peak_gb": torch.cuda.max_memory_allocated() / 2**30,
            "spread_of_chunks": (max(steady) - min(steady)) / each,
        }
        activities = [torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]
        with torch.profiler.profile(activities=activities) as record:
            ours(passes, text, shape, spec, 4, device)
        out.parent.mkdir(parents=True, exist_ok=True)
        record.export_chrome_trace(str(out.with_name(f"trace-{name}-{engine}.json")))
        parts = sorted(record.key_averages(), key=lambda e: -e.self_device_time_total)[:12]
        total = sum(e.self_device_time_total for e in record.key_averages()) or 1
        row.told["parts"] = {e.key[:60]: round(e.self_device_time_total / total, 3) for e in parts}
        yield row


@torch.no_grad()
def ours_stream(passes: Passes, text: torch.Tensor, shape: Shape, spec: StreamSpec, device: str) -> Iterator[Any]:
    student = Streamer(passes.net, passes.net.text_keys(text), passes=passes)
    noise = Normals(shape, spec, 1, device)
    yield from rollout(student, noise, StateCache(spec, layers=shape.size.layers), 1, shape.latents, finish=False)


def product_rate(device: str) -> float:
    """FLOP a second of a large bf16 matrix product."""
    a = torch.randn(8192, 8192, device=device, dtype=torch.bfloat16)
    took = []
    for _ in range(20):
        torch.cuda.synchronize()
        began = time.perf_counter()
        a @ a
        torch.cuda.synchronize()
        took.append(time.perf_counter() - began)
    return 2 * 8192**3 / statistics.median(took)


# ---- growth


def growth(chunks: int, out: Path) -> dict[str, Any]:
    """Milliseconds a chunk and bytes of the cache against length, window and states, at the tiny size."""
    shape = SHAPES["tiny"]
    net, text = network(shape, "cpu")
    passes = Passes(net)
    found: dict[str, Any] = {}
    for name, spec in {
        "adastate, chunk of 1": STREAMS["adastate, chunk of 1"],
        "adastate": STREAMS["adastate"],
        "self_forcing, window 21": STREAMS["self_forcing, window 21"],
    }.items():
        cache = StateCache(spec, layers=shape.size.layers)
        student = Streamer(net, net.text_keys(text), passes=passes)
        if spec.position == "absolute" and 3 * chunks > shape.size.rope_rows:
            length = shape.size.rope_rows // spec.chunk_frames - 1  # absolute time ends with its table
        else:
            length = chunks
        seconds, _ = streamed(student, cache, shape, spec, length, "cpu")
        found[name] = {"ms": [1e3 * s for s in seconds], "bytes": cache.bytes}
    found["window"] = {
        past: windowed(passes, text, shape, StreamSpec(chunk_frames=3, past_frames=past)) for past in (3, 6, 12, 18, 30)
    }
    found["states"] = {
        states: windowed(passes, text, shape, StreamSpec(chunk_frames=3, past_frames=6, state_frames=states))
        for states in (1, 2, 3)
    }
    figure(found, out)
    return found


def windowed(passes: Passes, text: torch.Tensor, shape: Shape, spec: StreamSpec) -> dict[str, float]:
    cache = StateCache(spec, layers=shape.size.layers)
    student = Streamer(passes.net, passes.net.text_keys(text), passes=passes)
    seconds, _ = streamed(student, cache, shape, spec, 40, "cpu")
    return {"ms": 1e3 * statistics.median(seconds[12:]), "bytes": cache.bytes}


def figure(found: dict[str, Any], out: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    fig, (left, middle, right) = plt.subplots(1, 3, figsize=(11, 3.2), constrained_layout=True)
    for style, (name, values) in zip(("-", "--", ":"), list(found.items())[:3], strict=True):
        ms = values["ms"]
        block = max(1, len(ms) // 50)
        smooth = [statistics.median(ms[i : i + block]) for i in range(0, len(ms) - block + 1, block)]
        left.plot([i * block for i in range(len(smooth))], smooth, style, color="black", lw=1, label=name)
    left.set(xlabel="chunk of the stream", ylabel="ms a chunk, median of a fiftieth", ylim=(0, None))
    left.legend(fontsize=7)
    window = found["window"]
    middle.plot(list(window), [v["ms"] for v in window.values()], "o-", color="black", lw=1)
    middle.set(xlabel="past frames", ylabel="ms a chunk", ylim=(0, None))
    right.plot(list(window), [v["bytes"] / 1e6 for v in window.values()], "s--", color="black", lw=1)
    right.set(xlabel="past frames", ylabel="MB of cache", ylim=(0, None))
    out.parent.mkdir(parents=True, exist_ok=True)
    fig.savefig(out, dpi=110)


# ---- what is printed


def show(rows: list[Row], title: str) -> Table:
    def spread(q: tuple[float, float, float] | None, digits: int) -> str:
        return "" if q is None else f"{q[0]:.{digits}f} ({q[1]:.{digits}f} to {q[2]:.{digits}f})"

    table = Table("shape", "stream", "variant", "ms a pass", "times faster", "of the floor", "off", title=title)
    for r in rows:
        table.add_row(
            r.shape, r.stream, r.variant, spread(r.ms, 2), spread(r.against, 2), spread(r.floor, 2), f"{r.off:.0e}"
        )
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--shapes", nargs="+", default=["small", "large"], choices=SHAPES)
    add("--streams", nargs="+", default=["self_forcing, window 6", "adastate"], choices=STREAMS)
    add("--engines", nargs="+", default=["eager"], choices=["eager", "compile", "graph"])
    add("--attention", default="sdpa", help="sdpa, flash_attn, flash3, flash4 or flex")
    add("--float32", action="store_true", help="only that")
    add("--rounds", type=int, default=7)
    add("--device", default="cpu")
    add("--growth", type=int, default=0, help="chunks of the streams whose growth is measured instead")
    add("--no-guard", action="store_true", help="do not fail where we are not faster than the plain path")
    add("--out", type=Path, default=Path("runs/bench.json"))
    args = parser.parse_args()
    console = Console(width=None if sys.stdout.isatty() else 150)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    machine = f"{platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}"
    if args.device.startswith("cuda"):
        machine = f"{torch.cuda.get_device_name()}, torch {torch.__version__}"
    console.print(attention.use(args.attention), highlight=False)
    if args.growth:
        found = growth(args.growth, args.out.with_name("growth.png"))
        args.out.with_name("growth.json").write_text(json.dumps(found))
        console.print(f"{args.out.with_name('growth.png')} and growth.json")
        return
    rows: list[Row] = []
    dtypes = [torch.float32] if args.float32 else [torch.float32, torch.bfloat16]
    for name in args.shapes:
        for stream in args.streams:
            if args.device.startswith("cuda") and name.startswith("wan"):
                rows += on_gpu(name, stream, args.engines, args.device, args.out)
            else:
                rows += measure(name, stream, dtypes, args.engines, args.rounds, args.device)
            args.out.write_text(json.dumps({"machine": machine, "rows": [asdict(r) for r in rows]}, indent=1))
    console.print(show(rows, machine))
    for row in rows:
        if row.told.get("pictures_s"):
            console.print(f"{row.shape}, {row.stream}, {row.variant}: {row.told}", highlight=False)
    slow = [r for r in rows if r.variant == "eager float32" and "window 6" in r.stream and r.against]
    bad = [r for r in slow if r.shape in GUARD and r.against[0] < GUARD[r.shape]]  # type: ignore[index]
    far = [r for r in rows if r.off > (1e-4 if r.variant.endswith("float32") else 2e-2)]
    for r in bad:
        console.print(f"[red]slower than it was: {r.shape} {r.against[0]:.2f} times the plain path")  # type: ignore[index]
    for r in far:
        console.print(f"[red]not the same: {r.shape}, {r.stream}, {r.variant} is {r.off:.1e} off")
    if (bad and not args.no_guard) or far:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
