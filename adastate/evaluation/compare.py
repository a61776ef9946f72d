"""`adastate compare`: the same weights, prompts and noise under several systems, side by side.

Every system is a file of conf/systems/, rescaled to the checkpoint's chunk; "as trained" is the checkpoint's own
stream. Noise is given by its place in the stream (chunk, level, state or content), so all systems denoise the same
noise into the same content wherever their schedules agree. What is written: one page with videos, strips and the
figures of `adastate evaluate`, and the figures as JSON.

Weights are not neutral: a student trained with one anchor is at home there. The page says with which it was trained.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from html import escape
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Column, Table
from torch import Tensor

from adastate.config.systems import System, names, read_system
from adastate.diffusion.noise import PlacedNoise
from adastate.encoders.batching import streams_at_once
from adastate.evaluation.evaluate import MetricsRow, Truth, ends, even_flights, rows, spelt
from adastate.media.strip import strip
from adastate.media.video import VideoWriter, file_name
from adastate.runtime import atomic
from adastate.stream import StreamSpec
from adastate.training.load_run import load_student
from adastate.training.student import Student
from adastate.weights import facts, mismatch

TRAINED = "as trained"
DEFAULT = (
    "self_forcing",
    "causvid",
    "causal_forcing_pp",
    "longlive",
    "longlive_slot",
    "rolling_forcing",
    "reward_forcing",
    "infinity_rope",
    "memrope",
    "rolling_sink",
)
"""Causal-Forcing streams as Self-Forcing does (they differ in training), so one of them stands for both."""


MAIN = ("heading", "speed", "scene", "residual", "dynamics", "displacement", "change", "contrast", "contrast_drift")
"""Measures shown in a terminal."""


@dataclass(frozen=True)
class Rollout:
    """What one system made of the prompts.

    Attributes:
        chunks, states: decoded pictures `[B, T, 3, h, w]` of every chunk; states None where there is none.
        seconds: of denoising, decoding not counted.
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
    """Streams of `frames` latent frames, a row a prompt."""
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
    """The systems of a command line, in its order, for this student."""
    for name in systems:
        if name == TRAINED:
            yield System(TRAINED, "The stream that these weights were trained with.", student.spec, 0)
        else:
            yield read_system(name, student.chunk_frames)


def describe(spec: StreamSpec) -> str:
    """A stream in a few words."""
    anchor = {
        "none": "no anchor",
        "static": f"first {spec.state_frames} kept",
        "ema": f"moving average of {spec.state_frames}, decay {', '.join(map(str, spec.decay))}",
        "dual_ema": f"first {spec.state_frames} and two averages, decay {', '.join(map(str, spec.decay))}",
        "pingpong": f"first {spec.state_frames} to and fro in {spec.pingpong_slots} places",
        "state": f"state of {spec.state_frames}",
    }[spec.anchor]
    window = "all frames" if spec.past_frames is None else f"{spec.past_frames} past"
    schedule = f"{len(spec.denoising_steps)} levels, {spec.schedule}"
    return f"{anchor}; {window} + {spec.chunk_frames}; {spec.position}; {schedule}"


@dataclass(frozen=True)
class SystemResult:
    """One column of the page."""

    title: str
    system: System
    warning: str  # that the weights were trained with another anchor; empty where not
    videos: list[Path]
    strip: Path
    figures: list[MetricsRow]
    pictures_s: float


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser("adastate compare", description=__doc__.split("\n\n")[0])
    parser.add_argument("--run", type=Path, default=Path("runs/tiny"), help="run folder, as `make train` writes it")
    parser.add_argument("--checkpoint", type=Path, action="append", default=[], help="safetensors; may be given again")
    parser.add_argument("--systems", nargs="+", default=[TRAINED, *DEFAULT], help=f"of {', '.join(names())}, or files")
    parser.add_argument("--prompts", type=Path, help="text file, one prompt a line; default: the tiny world's")
    parser.add_argument("--rollouts", type=int, default=16, help="measured")
    parser.add_argument("--shown", type=int, default=3, help="of those, shown as videos and strips")
    parser.add_argument("--horizon", type=int, default=6, help="length in training horizons")
    parser.add_argument("--seed", type=int, default=4242)
    parser.add_argument("--out", type=Path, help="folder; default <run>/compare")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    args = parser.parse_args(argv)
    out: Path = args.out or args.run / "compare"
    out.mkdir(parents=True, exist_ok=True)
    entries = list[SystemResult]()
    checkpoints = args.checkpoint or [None]
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.completed}/{task.total} systems"))
    with Progress(*columns, TimeRemainingColumn(), transient=True) as progress:
        task = progress.add_task("comparing", total=len(checkpoints) * len(args.systems))
        for checkpoint in checkpoints:
            student = load_student(args.run, checkpoint).to(args.device)
            truth = _truth(args.prompts, args.rollouts, args.seed)
            source = str(checkpoint or args.run / "student.safetensors")
            trained = facts(source).get("stream") or asdict(student.spec)
            name = "" if len(checkpoints) == 1 else f"{Path(checkpoint).stem}, "
            for system in chosen(args.systems, student):
                progress.update(task, description=f"{name}{system.name}")
                entries.append(_entry(student, system, name, truth, trained, args, out))
                progress.advance(task)
    figures = [row for entry in entries for row in entry.figures]
    protocol = {"rollouts": args.rollouts, "horizon": args.horizon, "seed": args.seed, "run": str(args.run)}
    told_ = {e.title: {"stream": describe(e.system.spec), "pictures_s": e.pictures_s} for e in entries}
    rows_ = {row.name: row.figures for row in figures}
    atomic.write_json(out / "compare.json", {"protocol": protocol, "systems": told_, "rows": rows_})
    page = write_page(out, entries, truth.prompts[: args.shown], args.run, args.horizon)
    strangers = [e.title for e in entries if e.warning]
    if strangers:
        print(f"not trained for their anchor: {', '.join(strangers)} (the page says more)")
    console = Console()
    for part in _by_stretch(figures):
        for table in tables(part, console.width):
            console.print(table)
    print(f"page      {page} (all measures, videos)\nfigures   {out / 'compare.json'}")


def tables(figures: Sequence[MetricsRow], width: int) -> Iterator[Table]:
    """A row a system and a column a measure of MAIN, in as many tables as a terminal of `width` characters needs."""
    systems = [row.name.rpartition(", ")[0] for row in figures]
    stretch = figures[0].name.rpartition(", ")[2]
    room = width - max(map(len, (*systems, stretch))) - 2
    columns, used = list[str](), 0
    for measure in (m for m in MAIN if m in _measures(figures)):
        wide = 2 + max(map(len, (*measure.split("_"), *(spelt(measure, row.figures.get(measure)) for row in figures))))
        if columns and used + wide > room:
            yield _rich(figures, systems, stretch, columns)
            columns, used = [], 0
        columns.append(measure)
        used += wide
    yield _rich(figures, systems, stretch, columns)


def _rich(figures: Sequence[MetricsRow], systems: Sequence[str], stretch: str, measures: Sequence[str]) -> Table:
    table = Table(Column(stretch, no_wrap=True, header_style="bold"), box=None)
    for measure in measures:
        table.add_column(measure.replace("_", " "), justify="right", vertical="bottom")
    for name, row in zip(systems, figures, strict=True):
        table.add_row(name, *(spelt(m, row.figures.get(m)) for m in measures))
    table.add_row()
    return table


def _measures(figures: Sequence[MetricsRow]) -> list[str]:
    return list(dict.fromkeys(m for row in figures for m in row.figures))


def _truth(prompts: Path | None, count: int, seed: int) -> Truth:
    if prompts is not None:
        return Truth([p for p in prompts.read_text().splitlines() if p.strip()][:count])
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
    figures = rows(ends(made.chunks, once, codec.fps), title, once, codec.fps, truth)
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


def _by_stretch(figures: list[MetricsRow]) -> list[list[MetricsRow]]:
    """One table a stretch of the rollout, a column a system."""
    stretches = list(dict.fromkeys(row.name.rpartition(", ")[2] for row in figures))
    return [[row for row in figures if row.name.endswith(f", {stretch}")] for stretch in stretches]


def write_page(out: Path, entries: Sequence[SystemResult], prompts: Sequence[str], run: Path, horizon: int) -> Path:
    """`compare.html` beside the files that it shows, by relative paths; needs no server."""
    videos = []
    for i, prompt in enumerate(prompts):
        cells = "".join(
            f'<figure><video src="{escape(str(e.videos[i].relative_to(out)))}" muted loop autoplay playsinline></video>'
            f"<figcaption>{escape(e.title)}</figcaption></figure>"
            for e in entries
        )
        videos.append(f'<h3>{escape(prompt)}</h3><div class="row">{cells}</div>')
    tables = "".join(_table(part) for part in _by_stretch([r for e in entries for r in e.figures]))
    about = "".join(
        f"<tr><th>{escape(e.title)}</th><td>{escape(e.system.description)}</td><td>{escape(describe(e.system.spec))}</td>"
        f"<td class=n>{e.pictures_s}</td><td>{escape(e.warning)}</td></tr>"
        for e in entries
    )
    strips = "".join(
        f'<h3>{escape(e.title)}</h3><a href="{escape(str(e.strip.relative_to(out)))}">'
        f'<img src="{escape(str(e.strip.relative_to(out)))}" loading="lazy"></a>'
        for e in entries
    )
    text = PAGE.format(
        run=escape(str(run)), horizon=horizon, videos="".join(videos), tables=tables, about=about, strips=strips
    )
    page = out / "compare.html"
    atomic.write_text(page, text)
    return page


def _table(figures: Sequence[MetricsRow]) -> str:
    measures = _measures(figures)
    stretch = figures[0].name.rpartition(", ")[2]
    head = "".join(f"<th>{escape(m.replace('_', ' '))}</th>" for m in measures)
    body = "".join(
        f"<tr><th>{escape(row.name.rpartition(', ')[0])}</th>"
        + "".join(f"<td class=n>{spelt(m, row.figures.get(m))}</td>" for m in measures)
        + "</tr>"
        for row in figures
    )
    return f"<h3>{escape(stretch)}</h3><table><tr><th></th>{head}</tr>{body}</table>"


PAGE = """<!doctype html><html lang="en"><meta charset="utf-8"><title>adastate compare</title><style>
body {{ font: 14px/1.5 system-ui, sans-serif; background: #131417; color: #e9eaee; margin: 24px; }}
h1, h2, h3 {{ font-weight: 600; }} h3 {{ margin: 20px 0 6px; color: #ffb74d; font-size: 14px; }}
.row {{ display: flex; gap: 10px; flex-wrap: wrap; }} figure {{ margin: 0; width: 150px; }}
video {{ width: 150px; border-radius: 4px; }} figcaption {{ color: #9497a0; font-size: 12px; }}
img {{ max-width: 100%; }} table {{ border-collapse: collapse; margin: 6px 0 18px; }}
th, td {{ padding: 3px 9px; border-bottom: 1px solid #34363c; text-align: left; vertical-align: top; }}
td.n {{ text-align: right; font-variant-numeric: tabular-nums; }} a {{ color: #5ecbbf; }}
</style>
<h1>One checkpoint, several systems</h1>
<p>Weights of {run}, rollouts of {horizon} times the training horizon; the same prompts and noise for all.
Figures: <a href="compare.json">compare.json</a>.</p>
<h2>Side by side</h2>{videos}
<h2>Figures</h2>{tables}
<h2>Systems</h2><table><tr><th></th><th>what it does</th><th>here</th><th>pictures/s</th><th></th></tr>{about}</table>
<h2>Strips</h2><p>Time to the right; a decoded state stands under its chunk.</p>{strips}
</html>
"""
