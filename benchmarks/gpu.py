"""GPU part of `make bench`: pictures per second, MFU, memory and a profile of a stream of a large network."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

import torch

from adastate.models.video_network import Engine
from adastate.models.wan.fused import Passes, Streamer
from adastate.stream import StateCache, StreamSpec
from adastate.stream.rollout import rollout
from benchmarks.clock import product_rate, quartiles
from benchmarks.shapes import SHAPES, STREAMS, Floor, Normals, Shape, random_network
from benchmarks.stream import FP8, StreamRow, ours

PICTURES = 4
"""Pictures per latent frame."""


def on_gpu(name: str, stream: str, engines: list[Engine], fp8: bool, device: str, out: Path) -> Iterator[StreamRow]:
    """Pictures per second, time to the first frame, MFU at the measured product rate, memory, and a profile."""
    shape, spec = SHAPES[name], STREAMS[stream]
    net, text = random_network(shape, device, torch.bfloat16)
    rate = product_rate(device)
    floor = Floor(shape, spec, device, torch.bfloat16)
    for engine, rounded in product(engines, [False, True] if fp8 else [False]):
        passes = Passes(net, torch.bfloat16, engine, rounded)
        label = f"{engine}{FP8 * rounded}"
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
        row = StreamRow(
            name, stream, f"{label} bfloat16", quartiles([1e3 * s / (len(spec.denoising_steps) + 1) for s in steady])
        )
        row.more = {
            "pictures_s": spec.chunk_frames * PICTURES / each,
            "first_frame_s": first_s,
            "mfu": (len(spec.denoising_steps) + 1) * floor.flop / each / rate,
            "products_tflops": rate / 1e12,
            "peak_gb": torch.cuda.max_memory_allocated() / 2**30,
            "spread_of_chunks": (max(steady) - min(steady)) / each,
        }
        activities = [torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]
        with torch.profiler.profile(activities=activities) as record:
            ours(passes, text, shape, spec, 4, device)
        out.parent.mkdir(parents=True, exist_ok=True)
        record.export_chrome_trace(str(out.with_name(f"trace-{name}-{label.replace(' ', '-')}.json")))
        parts = sorted(record.key_averages(), key=lambda e: -e.self_device_time_total)[:12]
        total = sum(e.self_device_time_total for e in record.key_averages()) or 1
        row.more["parts"] = {e.key[:60]: round(e.self_device_time_total / total, 3) for e in parts}
        yield row


@torch.no_grad()
def ours_stream(passes: Passes, text: torch.Tensor, shape: Shape, spec: StreamSpec, device: str) -> Iterator[Any]:
    student = Streamer(passes.net, passes.net.text_keys(text), passes=passes)
    noise = Normals(shape, spec, 1, device)
    yield from rollout(student, noise, StateCache(spec, layers=shape.size.layers), 1, shape.latents, finish=False)
