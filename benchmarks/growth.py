"""`make bench ARGS='--growth 2000'`: milliseconds per chunk and bytes of the cache by length, window and states."""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure

from adastate.models.wan.fused import Passes
from adastate.stream import StateCache, StreamSpec
from benchmarks.shapes import SHAPES, STREAMS, Shape, random_network
from benchmarks.stream import ours


def growth(chunks: int, out: Path) -> dict[str, Any]:
    """Measures everything at the tiny size, and draws a figure in `out`."""
    shape = SHAPES["tiny"]
    net, text = random_network(shape, "cpu")
    passes = Passes(net)
    found: dict[str, Any] = {}
    for name in ("adastate, chunk of 1", "adastate", "self_forcing, window 21"):
        spec = STREAMS[name]
        if spec.position == "absolute" and 3 * chunks > shape.size.rope_max_frames:
            length = shape.size.rope_max_frames // spec.chunk_frames - 1  # absolute time is limited by its table
        else:
            length = chunks
        found[name] = timed_chunks(passes, text, shape, spec, length)
    for key, counts, fixed in (
        ("past_frames", (3, 6, 12, 18, 30), {}),
        ("state_frames", (1, 2, 3), {"past_frames": 6}),
    ):
        specs = {n: StreamSpec.of({"chunk_frames": 3, **fixed, key: n}) for n in counts}
        made = {n: timed_chunks(passes, text, shape, spec, 40) for n, spec in specs.items()}
        found[key] = {n: {**m, "ms": statistics.median(m["ms"][12:])} for n, m in made.items()}
    figure(found, out)
    return found


def timed_chunks(passes: Passes, text: torch.Tensor, shape: Shape, spec: StreamSpec, chunks: int) -> dict[str, Any]:
    """Milliseconds of every chunk of a stream, and the bytes of its cache at the end."""
    cache = StateCache(spec, layers=shape.size.layers)
    seconds, _ = ours(passes, text, shape, spec, chunks, "cpu", cache)
    return {"ms": [1e3 * s for s in seconds], "bytes": cache.bytes}


def figure(found: dict[str, Any], out: Path) -> None:
    fig = Figure(figsize=(11, 3.2), layout="constrained")
    left, middle, right = fig.subplots(1, 3)
    for style, (name, values) in zip(("-", "--", ":"), list(found.items())[:3], strict=True):
        ms = values["ms"]
        block = max(1, len(ms) // 50)
        smooth = [statistics.median(ms[i : i + block]) for i in range(0, len(ms) - block + 1, block)]
        left.plot([i * block for i in range(len(smooth))], smooth, style, color="black", lw=1, label=name)
    left.set(xlabel="chunk of the stream", ylabel="ms a chunk, median of a fiftieth", ylim=(0, None))
    left.legend(fontsize=7)
    window = found["past_frames"]
    middle.plot(list(window), [v["ms"] for v in window.values()], "o-", color="black", lw=1)
    middle.set(xlabel="past frames", ylabel="ms a chunk", ylim=(0, None))
    right.plot(list(window), [v["bytes"] / 1e6 for v in window.values()], "s--", color="black", lw=1)
    right.set(xlabel="past frames", ylabel="MB of cache", ylim=(0, None))
    out.parent.mkdir(parents=True, exist_ok=True)
    fig.savefig(out, dpi=110)
