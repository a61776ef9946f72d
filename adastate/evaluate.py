"""`adastate evaluate`: rollouts at once and six times the training horizon, measured against their prompts.

Protocol: every rollout streams from its own noise; all figures come from its decoded pictures. "1x" is the training
horizon from the first picture on; "last second" are the last `fps` pictures. Prompts are captions of the tiny world,
whose headings, speeds and palettes are spread evenly, so the truth is known; with prompts of one's own, only what
needs no truth is measured.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from torch import Tensor

from adastate import metrics
from adastate.runs import load_student, load_teacher
from adastate.student import Student
from datamodules.world import HEADINGS, PALETTES, SPEEDS, Flight, flight, render

Figures = dict[str, float]


def truth(count: int, seed: int) -> list[Flight]:
    """Flights whose headings and speeds are spread evenly."""
    headings, speeds = list(HEADINGS), list(SPEEDS)
    return [
        flight(seed, i, heading=headings[i % 8], speed=speeds[(i // 8) % 2], palette=list(PALETTES)[i % len(PALETTES)])
        for i in range(count)
    ]


@torch.no_grad()
def stream_pictures(student: Student, prompts: Sequence[str], frames: int, seed: int, batch: int = 16) -> Tensor:
    """Decoded pictures `[B, T, 3, h, w]` of streams of `frames` latent frames, decoded as they come."""
    out = []
    with Progress(transient=True) as progress:
        task = progress.add_task("rollouts", total=len(prompts) * frames)
        for first in range(0, len(prompts), batch):
            some = list(prompts[first : first + batch])
            decoder, parts = student.codec.stream(), []
            for chunk in student.stream(some, frames, seed + first):
                parts.append(decoder.decode(chunk.content))
                progress.advance(task, len(some) * chunk.frames)
            out.append(torch.cat(parts, 1))
    return torch.cat(out)


def measure(video: Tensor, flights: Sequence[Flight] | None) -> Figures:
    """Figures of one stretch of video; means over the clips, the residual's median."""
    motion = metrics.displacement(video)
    found = {
        "displacement": motion.norm(dim=1).mean().item(),
        "contrast": metrics.contrast(video).mean().item(),
        "saturation": metrics.saturation(video).mean().item(),
        "sharpness": metrics.sharpness(video).mean().item(),
    }
    if flights is None:
        return found
    velocity = torch.tensor([f.velocity for f in flights])
    colours = torch.tensor([PALETTES[p][0] for p in PALETTES]).float() / 127.5 - 1
    palettes = [list(PALETTES)[i] for i in metrics.ground(video, colours).tolist()]
    named = metrics.heading(motion)
    speed = velocity.float().norm(dim=1)
    return {
        "heading": statistics.fmean(a == f.heading for a, f in zip(named, flights, strict=True)),
        "speed": ((motion - velocity).abs().amax(1) < 0.6).float().mean().item(),
        "palette": statistics.fmean(a == f.palette for a, f in zip(palettes, flights, strict=True)),
        "residual": metrics.residual(video, velocity).median().item(),
        "dynamics": (motion.norm(dim=1) / speed).mean().item(),
        **found,
    }


@dataclass(frozen=True)
class Row:
    name: str
    figures: Figures


def rows(video: Tensor, name: str, once: int, fps: int, flights: Sequence[Flight] | None) -> list[Row]:
    """The 1x stretch and, of a longer rollout, its last second, with the drift from the first second to it."""
    found = [Row(f"{name}, 1x", measure(video[:, :once], flights))]
    if video.shape[1] > once:
        first, last = video[:, :fps], video[:, -fps:]
        drifts = {
            f"{quality.__name__}_drift": metrics.drift(quality(first), quality(last)).mean().item()
            for quality in (metrics.contrast, metrics.saturation, metrics.sharpness)
        }
        times = video.shape[1] / once
        found.append(Row(f"{name}, last second of {times:.0f}x", {**measure(last, flights), **drifts}))
    return found


def evaluate(
    run: Path, weights: Path | None, count: int, horizon: int, prompts: list[str] | None, seed: int
) -> list[Row]:
    student = load_student(run, weights)
    flights = None if prompts else truth(count, seed)
    texts = prompts if prompts else [f.caption for f in flights or []]
    frames = student.rollout_frames
    once, fps = student.codec.pictures(frames), student.codec.fps
    found = rows(stream_pictures(student, texts, horizon * frames, seed), "student", once, fps, flights)
    if flights is not None:
        found += rows(load_teacher_clips(run, texts, frames, seed), "teacher", once, fps, flights)
        real = student.codec.decode(student.codec.encode(render(flights, once)))
        found += rows(real, "real clips", once, fps, flights)
    return found


def load_teacher_clips(run: Path, prompts: list[str], frames: int, seed: int) -> Tensor:
    teacher = load_teacher(run)
    assert teacher.codec is not None
    return teacher.codec.decode(teacher.sample(prompts, frames, seed=seed))


def show(found: list[Row], console: Console) -> None:
    """One column a stretch of video, one line a measure."""
    measures = list(dict.fromkeys(m for row in found for m in row.figures))
    table = Table("", *(row.name.replace(", ", "\n") for row in found))
    for measure_ in measures:
        table.add_row(measure_.replace("_", " "), *(_format(measure_, row.figures.get(measure_)) for row in found))
    console.print(table)


def _format(column: str, value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:.0%}" if column in ("heading", "speed", "palette") else f"{value:.3f}"


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser("adastate evaluate", description=__doc__)
    parser.add_argument("--run", type=Path, default=Path("runs/tiny"), help="run folder, as `make train` writes it")
    parser.add_argument("--weights", type=Path, help="safetensors to measure; default: the run's student.safetensors")
    parser.add_argument("--rollouts", type=int, default=32)
    parser.add_argument("--horizon", type=int, default=6, help="length in training horizons")
    parser.add_argument(
        "--prompts", type=Path, help="text file, one prompt a line; default: the tiny world's, with truth"
    )
    parser.add_argument("--seed", type=int, default=4242)
    parser.add_argument("--json", type=Path, help="where the figures go; default <run>/evaluation.json")
    args = parser.parse_args(argv)
    prompts = [p for p in args.prompts.read_text().splitlines() if p.strip()] if args.prompts else None
    found = evaluate(args.run, args.weights, args.rollouts, args.horizon, prompts, args.seed)
    show(found, Console())
    out = args.json or args.run / "evaluation.json"
    protocol: dict[str, Any] = {"rollouts": args.rollouts, "horizon": args.horizon, "seed": args.seed}
    out.write_text(json.dumps({"protocol": protocol, "rows": {r.name: r.figures for r in found}}, indent=1))
    print(f"figures in {out}")
