"""Phase of `make gpu-check`: pictures per second of streams at 1.3B, with and without Wan's VAE."""

from __future__ import annotations

import statistics
import time
from dataclasses import replace
from typing import Any

import torch

from adastate.inference.decode_worker import DecodeWorker
from adastate.models import attention
from adastate.models.video_network import Engine
from adastate.models.wan.fused import Passes, Streamer
from adastate.stream import StateCache, StreamSpec
from adastate.stream.rollout import rollout
from adastate.types import Chunk
from benchmarks.clock import DeviceClock, product_rate
from benchmarks.gpu_kernels import random_vae
from benchmarks.gpu_report import PhaseReport
from benchmarks.shapes import SHAPES, STREAMS, Floor, Normals, Shape, random_network

WANTED = ("adastate", "self_forcing, window 6", "self_forcing, window 21")
PICTURES = 4
"""Pictures per latent frame."""
SIZE_GIB = 8.0
"""Memory that streams at 1.3B need, generously."""


def streams(report: PhaseReport, seconds: float) -> None:
    """Each stream with graphs, then eagerly and in FP8; finally with decoding. The most important rows come first."""
    began, device = time.perf_counter(), report.device
    shape = SHAPES["tiny"] if report.tiny else SHAPES["wan_1_3b"]
    if device == "cuda" and not report.tiny:
        free = torch.cuda.mem_get_info()[0] / 2**30
        if free < SIZE_GIB:
            shape = replace(shape, size=replace(shape.size, layers=4))
            report.skip("30 layers", f"{free:.1f} GiB are free: only 4 layers are run")
    report.fact(attention=attention.use("auto"), layers=shape.size.layers)
    dtype = torch.bfloat16
    net, text = random_network(shape, device, dtype)
    rate = product_rate(device, 256 if report.tiny else 8192)
    report.fact(products_tflops=rate / 1e12)
    best: Engine = "graph" if device == "cuda" else "eager"
    plans: list[tuple[str, Engine, bool, bool]] = [(s, best, False, False) for s in WANTED]
    plans += [(s, best, False, True) for s in WANTED]
    plans += [("adastate", "eager", False, False)] * (best != "eager") + [("adastate", best, True, False)]
    made: dict[tuple[Engine, bool], Passes] = {}
    for stream, engine, fp8, pictures in plans:
        name = f"{stream}, {engine}{' fp8' * fp8}{', decoded' * pictures}"
        if time.perf_counter() - began > seconds:
            report.skip(name, "no time was left")
            continue
        try:
            if (engine, fp8) not in made:
                made.clear()
                made[engine, fp8] = Passes(net, dtype, engine, fp8)
            report.row(what=name, **_measured(made[engine, fp8], text, shape, STREAMS[stream], pictures, rate, report))
        except Exception as error:
            report.skip(name, error)


@torch.no_grad()
def _measured(
    passes: Passes, text: torch.Tensor, shape: Shape, spec: StreamSpec, pictures: bool, rate: float, report: PhaseReport
) -> dict[str, Any]:
    device = report.device
    decoder = random_vae(report.tiny, "bfloat16", device).stream() if pictures else None
    window = (spec.window_frames or spec.chunk_frames) // spec.chunk_frames + 1
    chunks = window + (3 if report.tiny else 8)
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    student = Streamer(passes.net, passes.net.text_keys(text), passes=passes)
    noise, clock = Normals(shape, spec, chunks, device), DeviceClock(device)
    stream = rollout(student, noise, StateCache(spec, layers=shape.size.layers), chunks, shape.latents, finish=False)
    took, first, shown = list[float](), 0.0, list[int]()
    began = start = clock()

    def decode(chunk: Chunk, ready: Any) -> None:
        with worker.stream_context(ready):
            assert decoder is not None
            made = (decoder.decode(chunk.content).clamp(-1, 1) * 127.5 + 127.5).to(torch.uint8).cpu()
            shown.append(made.shape[1])

    with DecodeWorker(torch.device(device)) as worker:
        for chunk in stream:
            if decoder is not None:
                worker.submit(decode, chunk)
            if device == "cuda":
                torch.cuda.current_stream().synchronize()
            now = time.perf_counter()
            first = first or now - start
            took.append(now - began)
            began = now
        settled = time.perf_counter()
        worker.finish()
        drained = clock() - settled
    steady = took[window:]
    each = statistics.median(steady)
    if decoder is not None:  # decoding that is still running belongs to these chunks
        each = (sum(steady) + drained) / len(steady)
    floor = Floor(shape, spec, "meta", torch.bfloat16).flop
    passes_a_chunk = len(spec.denoising_steps) + 1
    return {
        "pictures_s": spec.chunk_frames * PICTURES / each,
        "chunk_ms": 1e3 * each,
        "spread": (max(steady) - min(steady)) / each,
        "first_chunk_s": first,
        "mfu": passes_a_chunk * floor / each / rate,
        "pictures": sum(shown),
        "chunks": len(steady),
        "peak_gib": torch.cuda.max_memory_allocated() / 2**30 if device == "cuda" else None,
    }
