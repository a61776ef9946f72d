"""`make bench ARGS='--growth 2000'`: milliseconds a chunk and bytes of the cache against length, window and states."""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Any

import torch

from adastate.models.wan.fused import Passes, Streamer
from adastate.stream import StateCache, StreamSpec
from benchmarks.shapes import SHAPES, STREAMS, Shape, network
from benchmarks.stream import streamed


def growth(chunks: int, out: Path) -> dict[str, Any]:
    """All of it at the tiny size, with a figure in `out`."""
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
        if spec.position == "absolute" and 3 * chunks > shape.size.rope_max_frames:
            length = shape.size.rope_max_frames // spec.chunk_frames - 1  # absolute time ends with its table
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
