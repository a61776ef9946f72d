"""The same weights, prompts and noise under several systems: a page with videos, strips and figures side by side."""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Column, Table
from torch import Tensor

from adastate.config.systems import TRAINED, System, read_system
from adastate.diffusion.noise import PlacedNoise
from adastate.encoders.batching import streams_at_once
from adastate.evaluation.evaluate import Truth, even_flights, stretch_rows
from adastate.evaluation.metrics_table import MetricsRow, measures_of, spelt
from adastate.evaluation.rollout_ends import ends
from adastate.media import html_page
from adastate.media.strip import strip
from adastate.media.video import VideoWriter, file_name
from adastate.models import attention
from adastate.runtime import atomic
from adastate.runtime.ranks import device_for, this_rank
from adastate.stream import StreamSpec
from adastate.training.load_run import load_student, student_file
from adastate.training.student import Student
from adastate.weights import header_facts, mismatch

MAIN = ("heading", "speed", "scene", "residual", "dynamics", "displacement", "change", "contrast", "contrast_drift")
"""Measures shown in the terminal."""


@dataclass(frozen=True)
class Rollout:
    """A system's rollouts of the prompts.

    Attributes:
        chunks, states: decoded pictures `[B, T, 3, h, w]` of every chunk; states are None if there are none.
        seconds: of denoising, without decoding.
    """

    chunks: list[Tensor]
    states: list[Tensor | None]
    seconds: float

    @property
    def video(self) -> Tensor:
        return torch.cat(self.chunks, 1)


@torch.no_grad()
def roll(
    student: Student, system: System, prompts: Sequence[str], frames: int, seed: int, batch: int | None = None
) -> Rollout:
    """Streams of `frames` latent frames, one row per prompt."""
    codec, parts, batch = student.codec, list[Rollout](), batch or streams_at_once(student.latent_size)
    size = student.net.size
    if system.rope_max_frames > size.rope_max_frames:
        for net in (student.net, student.ema.net):
            net.size = replace(size, rope_max_frames=system.rope_max_frames)
    for first in range(0, len(prompts), batch):
        some = list(prompts[first : first + batch])
        index = range(first, first + len(some))
        noise = PlacedNoise(seed, list(index), device=student.device)
        decoder, chunks, states = codec.stream(), list[Tensor](), list[Tensor | None]()
        stream = student.stream(some, frames, spec=system.spec, noise=noise, index=index)
        seconds = 0.0
        while True:
            began = time.perf_counter()
            chunk = next(stream, None)
            if student.device.type == "cuda":
                torch.cuda.synchronize(student.device)
            seconds += time.perf_counter() - began
            if chunk is None:
                break
            chunks.append(decoder.decode(chunk.content).cpu())
            states.append(None if chunk.state is None else codec.decode(chunk.state).cpu())
        parts.append(Rollout(chunks, states, seconds))
    return Rollout(
        [torch.cat(c) for c in zip(*(p.chunks for p in parts), strict=True)],
        [None if s[0] is None else torch.cat(s) for s in zip(*(p.states for p in parts), strict=True)],  # type: ignore[arg-type]
        sum(p.seconds for p in parts),
    )


def chosen(systems: Sequence[str], student: Student) -> Iterator[System]:
    """The systems named on a command line, in that order, for this student."""
    for name in systems:
        if name == TRAINED:
            yield System(TRAINED, "The stream that these weights were trained with.", student.spec, 0)
        else:
            yield read_system(name, student.chunk_frames)


def stream_in_words(spec: StreamSpec) -> str:
    """Describes a stream in a few words."""
    window = "all frames" if spec.past_frames is None else f"{spec.past_frames} past"
    schedule = f"{len(spec.denoising_steps)} levels, {spec.schedule}"
    return f"{spec.anchor_kind.describe(spec)}; {window} + {spec.chunk_frames}; {spec.position}; {schedule}"


@dataclass(frozen=True)
class SystemResult:
    """One column of the page."""

    title: str
    system: System
    warning: str  # set if the weights were trained with another anchor, else empty
    videos: list[Path]
    strip: Path
    figures: list[MetricsRow]
    pictures_s: float


def compare_run(args: argparse.Namespace, prompts: Sequence[str] | None) -> None:
    """`adastate compare`: runs every system, prints tables and writes the page."""
    device = device_for(args.device, this_rank(os.environ))
    runs: list[Path] = args.run
    out: Path = args.out or runs[0] / "compare"
    out.mkdir(parents=True, exist_ok=True)
    attention.use("auto")
    entries = list[SystemResult]()
    weights = [(runs[0], c) for c in args.checkpoint] or [(run, None) for run in runs]
    titles = [Path(c).stem for c in args.checkpoint] or told_apart(runs)
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.completed}/{task.total} systems"))
    with Progress(*columns, TimeRemainingColumn(), transient=True) as progress:
        task = progress.add_task("comparing", total=len(weights) * len(args.systems))
        for (run, checkpoint), title in zip(weights, titles, strict=True):
            student = load_student(run, checkpoint).to(device)
            truth = _truth(prompts, args.rollouts, args.seed)
            source = str(checkpoint or student_file(run))
            trained = header_facts(source).get("stream") or asdict(student.spec)
            name = "" if len(weights) == 1 else f"{title}, "
            for system in chosen(args.systems, student):
                progress.update(task, description=f"{name}{system.name}")
                entries.append(_entry(student, system, name, truth, trained, args, out))
                progress.advance(task)
    figures = [row for entry in entries for row in entry.figures]
    protocol = {
        "rollouts": args.rollouts,
        "horizon": args.horizon,
        "seed": args.seed,
        "run": os.path.relpath(runs[0], out) if len(runs) == 1 else [os.path.relpath(run, out) for run in runs],
    }
    told_ = {e.title: {"stream": stream_in_words(e.system.spec), "pictures_s": e.pictures_s} for e in entries}
    rows_ = {row.title: row.figures for row in figures}
    atomic.write_json(out / "compare.json", {"protocol": protocol, "systems": told_, "rows": rows_})
    page = write_page(out, entries, truth.prompts[: args.shown], ", ".join(map(str, runs)), args.horizon)
    strangers = [e.title for e in entries if e.warning]
    if strangers:
        print(f"not trained for their anchor: {', '.join(strangers)} (details on the page)")
    console = Console()
    for part in _by_stretch(figures):
        for table in tables(part, console.width):
            console.print(table)
    print(f"page      {page} (all measures, videos)\nfigures   {out / 'compare.json'}")


def told_apart(runs: Sequence[Path]) -> list[str]:
    """Names of run folders, with as many parent folders as needed to tell them apart."""
    for depth in range(1, max(len(run.parts) for run in runs) + 1):
        found = ["/".join(run.parts[-depth:]) for run in runs]
        if len(set(found)) == len(found):
            return found
    return [f"{run}, {i}" for i, run in enumerate(runs, 1)]


def tables(figures: Sequence[MetricsRow], width: int) -> Iterator[Table]:
    """One row per system, one column per measure of MAIN, split into tables that fit into `width` characters."""
    room = width - max(len(word) for row in figures for word in (row.name, row.stretch)) - 2
    columns, used = list[str](), 0
    for measure in (m for m in MAIN if m in measures_of(figures)):
        wide = 2 + max(map(len, (*measure.split("_"), *(spelt(measure, row.figures.get(measure)) for row in figures))))
        if columns and used + wide > room:
            yield _rich(figures, columns)
            columns, used = [], 0
        columns.append(measure)
        used += wide
    yield _rich(figures, columns)


def _rich(figures: Sequence[MetricsRow], measures: Sequence[str]) -> Table:
    table = Table(Column(figures[0].stretch, no_wrap=True, header_style="bold"), box=None)
    for measure in measures:
        table.add_column(measure.replace("_", " "), justify="right", vertical="bottom")
    for row in figures:
        table.add_row(row.name, *(spelt(m, row.figures.get(m)) for m in measures))
    table.add_row()
    return table


def _truth(prompts: Sequence[str] | None, count: int, seed: int) -> Truth:
    if prompts is not None:
        return Truth(list(prompts[:count]))
    flights = even_flights(count, seed)
    return Truth([f.caption for f in flights], flights)


def _entry(
    student: Student,
    system: System,
    prefix: str,
    truth: Truth,
    trained: dict[str, Any],
    args: argparse.Namespace,
    out: Path,
) -> SystemResult:
    title, codec = f"{prefix}{system.name}", student.codec
    made = roll(student, system, truth.prompts, args.horizon * student.rollout_frames, args.seed)
    once = codec.video_frames(student.rollout_frames)
    folder = out / file_name(title, 0)[4:]
    shown = [c[: args.shown] for c in made.chunks]
    states = [None if s is None else s[: args.shown] for s in made.states]
    videos = []
    for i, prompt in enumerate(truth.prompts[: args.shown]):
        path = folder / f"{file_name(prompt, i)}.mp4"
        first = shown[0][i]
        with VideoWriter(path, codec.fps, *first.shape[-2:]) as writer:
            for chunk in shown:
                writer.append(chunk[i])
        videos.append(path)
    horizon = student.rollout_frames // student.chunk_frames
    prompts = truth.prompts[: args.shown]
    sheet = strip(shown, states, prompts=prompts, fps=codec.fps, title=title, horizon=horizon)
    sheet.save(folder / "strip.png")
    figures = stretch_rows(ends(made.chunks, once, codec.fps), title, once, codec.fps, truth)
    pictures = sum(chunk.shape[0] * chunk.shape[1] for chunk in made.chunks)
    return SystemResult(
        title,
        system,
        mismatch(trained, asdict(system.spec)) or "",
        videos,
        folder / "strip.png",
        figures,
        round(pictures / made.seconds, 1),
    )


def _by_stretch(figures: Sequence[MetricsRow]) -> list[list[MetricsRow]]:
    """The rows grouped by stretch of the rollouts, one per system."""
    return [[row for row in figures if row.stretch == stretch] for stretch in dict.fromkeys(r.stretch for r in figures)]


def write_page(
    out: Path, entries: Sequence[SystemResult], prompts: Sequence[str], run: Path | str, horizon: int
) -> Path:
    """Writes `compare.html` beside the files that it shows, with relative paths; it needs no server."""
    text = html_page.fill(
        Path(__file__).with_name("compare.html.jinja"),
        out=out,
        entries=entries,
        prompts=prompts,
        run=run,
        horizon=horizon,
        stretches=[(part, measures_of(part)) for part in _by_stretch([row for e in entries for row in e.figures])],
        describe=stream_in_words,
        spelt=spelt,
    )
    page = out / "compare.html"
    atomic.write_text(page, text)
    return page
