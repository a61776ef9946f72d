"""`make bench`: chunk times of a long stream at the tiny size, with and without decoding, and training step times.

Prints a table and writes JSON. Absolute times hold for the machine that ran it; compare two versions in one sitting.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from adastate.critic import Critic
from adastate.distill import Distill, Part
from adastate.encoders import TinyCodec, TinyText
from adastate.net import Size
from adastate.noise import SampleNoise
from adastate.stream import StreamSpec
from adastate.student import Student
from adastate.teacher import Teacher

PROMPT = "a slow flight north-east over a green meadow, a white ball bounces"
SPEC = StreamSpec(chunk_frames=1, past_frames=3, state_frames=1)


def student(dtype: str | None) -> Student:
    return Student(Size(), TinyCodec(), TinyText(), SPEC, (8, 8), 7, weights="builtin", compute_dtype=dtype)


def chunk_times(chunks: int, batch: int, dtype: str | None) -> tuple[list[float], list[float]]:
    """Seconds of every chunk of one stream: denoising with its clean pass, and decoding."""
    module = student(dtype)
    denoise, decode = [], []
    stream = module.stream([PROMPT] * batch, chunks, seed=0)
    for _ in range(chunks):
        start = time.perf_counter()
        chunk = next(stream)
        middle = time.perf_counter()
        module.codec.decode(chunk.content)
        denoise.append(middle - start)
        decode.append(time.perf_counter() - middle)
    return denoise, decode


def step_times(steps: int, batch: int, dtype: str | None) -> dict[str, list[float]]:
    """Seconds of the student's and the critic's part of a distillation iteration, backward included."""
    teacher = Teacher(Size(), weights="builtin", shift=3.0, guidance=1.5, ema=None, compute_dtype=dtype)
    critic = Critic(Size(), weights="builtin", shift=3.0, compute_dtype=dtype)
    module = Distill(teacher, student(dtype), critic, global_batch=batch)
    text, negative = module.student.embed([PROMPT] * batch), module.student.embed([""])
    index = torch.arange(batch)
    found: dict[str, list[float]] = {"student": [], "critic": []}
    for _ in range(steps):
        start = time.perf_counter()
        sample = module.sample(Part(text, index), "bench", grad=True)
        x = sample.x
        module.student_loss(sample, text, negative, index)[0].backward()
        middle = time.perf_counter()
        module.critic.loss(x, text, SampleNoise(0, 0, index, "critic"))[0].backward()
        found["student"].append(middle - start)
        found["critic"].append(time.perf_counter() - middle)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--chunks", type=int, default=400)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--out", type=Path, default=Path("runs/bench.json"))
    args = parser.parse_args()
    rows: list[dict[str, object]] = []
    for dtype in (None, "bfloat16"):
        name = dtype or "float32"
        denoise, decode = chunk_times(args.chunks, 1, dtype)
        tenth = max(1, args.chunks // 10)
        rows.append(row(f"chunk, batch 1, {name}", denoise[4:]))
        rows.append(row(f"  chunks {4}..{tenth}", denoise[4:tenth]))
        rows.append(row(f"  chunks {args.chunks - tenth}..{args.chunks}", denoise[-tenth:]))
        rows.append(row("  decoding a chunk", decode[4:]))
        for part, seconds in step_times(args.steps, 16, dtype).items():
            rows.append(row(f"{part} step, batch 16, {name}", seconds[2:]))
    machine = f"{platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}"
    table = Table("what", "median ms", "quartiles ms", title=machine)
    for r in rows:
        table.add_row(str(r["what"]), f"{r['median']:.1f}", f"{r['low']:.1f} to {r['high']:.1f}")
    Console().print(table)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(rows, indent=1))


def row(what: str, seconds: list[float]) -> dict[str, object]:
    low, median, high = statistics.quantiles(seconds, n=4)
    return {"what": what, "median": 1e3 * median, "low": 1e3 * low, "high": 1e3 * high}


if __name__ == "__main__":
    main()
