"""Streams compared with a plain implementation and with the lower bound: variants, and the rows of their comparison.

Passes are counted as in the method: the levels and a clean pass per chunk.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import product
from typing import Any

import torch
from rich.table import Table

from adastate.models.video_network import Engine
from adastate.models.wan import DiT
from adastate.models.wan.fused import Passes, Streamer
from adastate.stream import StateCache, StreamSpec
from adastate.stream.rollout import rollout
from benchmarks.clock import DeviceClock, Spread, quartiles, ratios, spread_in_words
from benchmarks.plain import PlainStream
from benchmarks.shapes import SHAPES, STREAMS, Floor, Normals, Shape, random_network

GUARD = {"small": 1.4, "large": 0.95}
"""Minimum median ratio of the plain path's time to ours; a regression falls below it, a busy machine does not."""

FP8 = " fp8"
"""Part of the label of a variant with products in FP8."""


@dataclass
class StreamRow:
    """One variant of one shape and stream.

    Attributes:
        ms: per pass, median and quartiles over the rounds.
        against: ratio of the reference's time to this one's within a round, likewise.
        floor: fraction of a pass that the lower bound takes, likewise.
        off: largest relative distance of its chunks from the simple path's.
    """

    shape: str
    stream: str
    variant: str
    ms: Spread
    against: Spread | None = None
    floor: Spread | None = None
    off: float = 0.0
    more: dict[str, Any] = field(default_factory=dict)


# ---- variants: each returns the seconds of every chunk, and the chunks

Made = tuple[list[float], list[torch.Tensor]]


def simple(net: DiT, text: torch.Tensor, shape: Shape, spec: StreamSpec, chunks: int, device: str) -> Made:
    """The network's own forward, and a cache that is created again at every commit."""
    keys = net.text_keys(text)
    return timed_stream(lambda x, t, m: net(x, t, keys, memory=m), StateCache(spec), shape, spec, chunks, device)


def ours(
    passes: Passes,
    text: torch.Tensor,
    shape: Shape,
    spec: StreamSpec,
    chunks: int,
    device: str,
    cache: StateCache | None = None,
) -> Made:
    student = Streamer(passes.net, passes.net.text_keys(text), passes=passes)
    return timed_stream(student, cache or StateCache(spec, layers=shape.size.layers), shape, spec, chunks, device)


@torch.no_grad()
def timed_stream(student: Any, cache: StateCache, shape: Shape, spec: StreamSpec, chunks: int, device: str) -> Made:
    """A chunk's seconds start with its noise and end with its clean pass."""
    clock, noise = DeviceClock(device), Normals(shape, spec, chunks, device)
    stream = rollout(student, noise, cache, chunks, shape.latents)
    seconds, made = list[float](), list[torch.Tensor]()
    next_, began = next(stream, None), clock()
    while next_ is not None:
        made.append(next_.content.float().cpu() if len(made) < 8 else next_.content[:0])
        next_ = next(stream, None)
        seconds.append(clock() - began)  # the clean pass of this chunk and the levels of the next
        began = clock()
    return seconds[:-1], made


@torch.no_grad()
def plain_stream(net: DiT, text: torch.Tensor, shape: Shape, spec: StreamSpec, chunks: int, device: str) -> Made:
    clock, noise = DeviceClock(device), Normals(shape, spec, chunks, device)
    assert spec.past_frames is not None
    stream = PlainStream(
        net, text, spec.chunk_frames, spec.past_frames + spec.chunk_frames, spec.timesteps, spec.timestep_shift
    )
    seconds, made = [], []
    for _ in range(chunks):
        drawn = [noise.normal(spec.chunk_frames, *shape.latents) for _ in spec.denoising_steps]
        began = clock()
        made.append(stream.next(drawn[0], drawn[1:]).float().cpu())
        seconds.append(clock() - began)
    return seconds, made


# ---- rows


def measure_stream(
    name: str, stream: str, dtypes: list[torch.dtype], engines: list[Engine], fp8: bool, rounds: int, device: str
) -> list[StreamRow]:
    """All variants of a shape and a stream, taking turns."""
    shape, spec = SHAPES[name], STREAMS[stream]
    passes = len(spec.denoising_steps) + 1
    net, text = random_network(shape, device)
    warm = min(shape.chunks // 2, 8)
    variants: dict[str, Callable[[], Made]] = {}
    large = name.startswith("wan")
    if spec.position == "absolute" and spec.anchor == "none" and not large:
        variants["plain float32"] = lambda: plain_stream(net, text, shape, spec, shape.chunks, device)
    variants["simple float32"] = lambda: simple(net, text, shape, spec, shape.chunks, device)
    reference = next(iter(variants))
    for dtype in dtypes:
        for engine, rounded in product(engines, [False, True] if fp8 and dtype == torch.bfloat16 else [False]):
            made = Passes(net, dtype, engine, rounded)
            label = f"{engine}{FP8 * rounded} {str(dtype).removeprefix('torch.')}"
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
                clock = DeviceClock(device)
                took = []
                for _ in range(4 if name in ("large", "wan_1_3b") else 40):
                    began = clock()
                    floor()
                    took.append(clock() - began)
                if turn:
                    floor_times[label].append(statistics.median(took))
    rows = []
    for label, took in times.items():
        row = StreamRow(name, stream, label, quartiles([1e3 * t for t in took]))
        row.against = ratios(times[reference], took)
        if (kind := label.split()[-1]) in floors:
            row.floor = ratios(floor_times[kind], took)
            row.more["floor_ms"] = 1e3 * statistics.median(floor_times[kind])
            row.more["tflops"] = floors[kind].flop / statistics.median(took) / 1e12
        row.off = distance(results[label], results["simple float32"])
        rows.append(row)
    return rows


def distance(a: list[torch.Tensor], b: list[torch.Tensor]) -> float:
    """Relative norm of the difference of the first chunks, the maximum."""
    return max(float((x - y).norm() / y.norm()) for x, y in zip(a[:4], b[:4], strict=False))


def stream_table(rows: list[StreamRow], title: str) -> Table:
    table = Table("shape", "stream", "variant", "ms a pass", "times faster", "of the floor", "off", title=title)
    for r in rows:
        table.add_row(
            r.shape,
            r.stream,
            r.variant,
            spread_in_words(r.ms, 2),
            spread_in_words(r.against, 2),
            spread_in_words(r.floor, 2),
            f"{r.off:.0e}",
        )
    return table


def faults_of_stream(rows: list[StreamRow]) -> tuple[list[str], list[str]]:
    """(rows that have become slower, rows whose results differ), one message each."""
    judged = [r for r in rows if r.variant == "eager float32" and "window 6" in r.stream and r.shape in GUARD]
    slow = [
        f"slower than before: {r.shape} {r.against[0]:.2f} times the plain path"
        for r in judged
        if r.against and r.against[0] < GUARD[r.shape]
    ]
    far = [r for r in rows if r.off > (1e-4 if r.variant.endswith("float32") else 0.2 if FP8 in r.variant else 2e-2)]
    return slow, [f"different: {r.shape}, {r.stream}, {r.variant} is {r.off:.1e} off" for r in far]
