"""`adastate train`: the whole pipeline. Every stage is a command of its own, run in a process of its own.

Every stage leaves a mark in <run>/stages/; run again, the pipeline skips what is done with the same settings, goes on
with what was begun from its last checkpoint, and does anew what comes after a stage that has changed.
"""

from __future__ import annotations

import argparse
import json
import shlex
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from adastate import launch, signals
from datamodules.shards import find_shards, read_shard
from datamodules.world import FPS

NEEDED_GB = 2.0
"""Free disk that a run at the tiny size asks for; it writes about a third of it."""

CLIP_PICTURES = 21
"""Of a training clip at the tiny size: one horizon."""

REAL_FPS = 12
"""Of real video: a clip of 21 pictures is then 1.75 s long, in which things move, and short scenes still give some."""

SMALL_FOLDER = 2**26
"""Bytes of video up to which clips begin at every picture. More footage has clips enough, one after another."""

PROMPTS = (
    "a slow flight north-east over a green meadow, a white ball bounces",
    "flying west over a blue ocean, fast, a red ball bounces",
    "a dark lava seen from above, slow flight south, nothing else moves",
    "a fast flight south-east over a violet city, a white ball bounces",
    "a fast flight north over a yellow desert, a red ball bounces",
    "flying east over a pale snow, slow, a red ball bounces",
)


@dataclass(frozen=True)
class Stage:
    """One step: a command line of `adastate`, and how to say in a few words what came of it."""

    name: str
    argv: list[str]
    result: Callable[[], str] = field(default=lambda: "")


def stages(args: argparse.Namespace) -> list[Stage]:
    """The steps for the chosen data and teacher, in order."""
    run = Path(args.run)
    world = args.data == "world"
    base = ["--config", "conf/base.yaml", "--config", f"conf/sizes/{args.size}.yaml", f"--run.dir={run}"]
    shards = run / "shards"
    steps: list[Stage] = []

    def fit(name: str, *extra: str) -> Stage:
        return Stage(name, ["fit", *base, "--config", f"conf/stages/{name}.yaml", *extra, *args.rest])

    if world:
        steps.append(Stage("shards", ["shards", "--world", "256", "--out", str(shards)], lambda: _count(shards)))
    else:
        videos = run / "clips" if args.data == "clips" else Path(args.data)
        if args.data == "clips":
            steps.append(Stage("clips", ["shards", "--fetch-clips", str(videos)], lambda: f"in {videos}"))
        cut = ["shards", "--videos", str(videos), "--out", str(shards), "--caption-from-name", "--fps", str(REAL_FPS)]
        if args.data == "clips" or sum(p.stat().st_size for p in videos.rglob("*") if p.is_file()) <= SMALL_FOLDER:
            cut += ["--stride", "1"]
        steps.append(
            Stage("shards", cut, lambda: f"{_count(shards)}, {_captions(shards, run / 'prompts.txt')} captions")
        )
        base += [f"--watch.prompts={run / 'prompts.txt'}", f"--codec.init_args.fps={REAL_FPS}"]
        steps.append(fit("codec", "--config", "conf/data/codec_shards.yaml"))
        base += [f"--codec.init_args.weights={run}/codec.safetensors"]
    if not world or args.teacher == "scratch":
        extra = [] if world else ["--config", "conf/data/teacher_shards.yaml"]
        steps.append(fit("teacher", *extra))
        base += [f"--flow.teacher={run}/teacher.safetensors"]
    elif args.teacher != "builtin":
        base += [f"--flow.teacher={args.teacher}"]
    prompts = [] if world else ["--prompts", str(run / "prompts.txt")]
    paths = ["trajectories", *base, "--config", "conf/stages/teacher.yaml", "--clips", str(args.clips), "--steps", "16"]
    steps.append(Stage("trajectories", [*paths, *prompts], lambda: _count(run / "trajectories")))
    steps.append(fit("init"))
    tiny = ["--config", "conf/stages/distill_tiny.yaml"] if args.size == "tiny" else []
    other = [] if world else [f"--data.file={run}/prompts.txt"]
    steps.append(fit("distill", *tiny, *other))
    once = CLIP_PICTURES / (FPS if world else REAL_FPS)
    for name, length in {"rollouts 1x": f"{once:.3f}", "rollouts 6x": f"{6 * once:.3f}"}.items():
        folder = run / "rollouts" / name.split()[1]
        line = ["generate", "--run", str(run), "--seconds", length, "--states", "--strip", "--out", str(folder)]
        told = [word for p in PROMPTS for word in ("--prompt", p)] if world else [*prompts, "--most", "6"]
        steps.append(Stage(name, [*line, *told], lambda folder=folder: _speed(folder)))  # type: ignore[misc]
    steps.append(Stage("evaluate", ["evaluate", "--run", str(run), *prompts], lambda: _evaluated(run)))
    return steps


def run_stage(stage: Stage, run: Path, console: Console, anew: bool = False) -> dict[str, Any]:
    """Runs a stage unless it is done; returns its mark: seconds, result, and whether it was skipped.

    A stage that an earlier call began with the same command goes on from its last checkpoint. `anew` disregards
    what is there, because an earlier stage has changed.
    """
    mark = run / "stages" / f"{stage.name.replace(' ', '-')}.json"
    known = json.loads(mark.read_text()) if mark.is_file() and not anew else {}
    if known.get("argv") == stage.argv and known["done"]:
        console.print(f"[green]done before[/] {stage.name}")
        return {**known, "skipped": True}
    argv = list(stage.argv)
    if known.get("argv") == stage.argv and (run / stage.name / "checkpoints").is_dir():
        argv.append("--ckpt_path=auto")
    console.rule(f"[bold]{stage.name}", align="left")
    console.print(f"[dim]adastate {shlex.join(argv)}", highlight=False)
    mark.parent.mkdir(parents=True, exist_ok=True)
    mark.write_text(json.dumps({"argv": stage.argv, "done": False}, indent=1))
    began = time.monotonic()
    code = launch.run(argv)
    if signals.stopped(code):
        console.print(f"{stage.name} was asked to stop, and has; run the same command again to go on from here")
        raise SystemExit(signals.AGAIN)
    if code not in (0, signals.ENDED):
        raise SystemExit(
            f"adastate train: the stage {stage.name!r} failed (exit {code}); what was done before is kept, run the "
            "same command again to go on from here"
        )
    seconds = round(time.monotonic() - began, 1)
    told = {"argv": stage.argv, "done": True, "seconds": seconds, "result": stage.result()}
    mark.write_text(json.dumps(told, indent=1))
    if code == signals.ENDED:
        console.print(f"asked to stop at the end of {stage.name}; run the same command again for the rest")
        raise SystemExit(signals.AGAIN)
    return {**told, "skipped": False}


def _count(folder: Path) -> str:
    index = json.loads((folder / "index.json").read_text())
    return f"{sum(s['samples'] for s in index['shards'])} clips in {folder}"


def _captions(shards: Path, out: Path) -> int:
    """Writes the different captions of the shards, one a line: the prompts of the later stages."""
    captions = {
        " ".join(sample.read("txt").decode().split())
        for path in find_shards(str(shards))
        for sample in read_shard(path)
    }
    out.write_text("\n".join(sorted(captions)) + "\n")
    return len(captions)


def _speed(folder: Path) -> str:
    timing = json.loads((folder / "timing.json").read_text())
    return f"{timing['pictures']} pictures each, {timing['pictures_s_with_decoding']} pictures/s"


def _evaluated(run: Path) -> str:
    rows = json.loads((run / "evaluation.json").read_text())["rows"]
    parts, dynamics = [], "change_in_half_a_second"
    for name, row in rows.items():
        if name.startswith("student"):
            what = f"heading {row['heading']:.0%}" if "heading" in row else f"change {row[dynamics]:.3f}"
            parts.append(f"{name.removeprefix('student, ')}: {what}")
    if "real clips, 1x" in rows and "heading" not in rows["real clips, 1x"]:
        parts.append(f"real clips: change {rows['real clips, 1x'][dynamics]:.3f}")
    return "; ".join(parts)


def _require_room(run: Path, console: Console) -> None:
    try:
        run.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SystemExit(f"adastate train: cannot write to {run} ({error.strerror}); set RUN=another/folder") from error
    free = shutil.disk_usage(run).free / 2**30
    if free < NEEDED_GB:
        raise SystemExit(
            f"adastate train: {free:.1f} GB free at {run}, a run needs {NEEDED_GB:.0f}; make room or set RUN=..."
        )


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser("adastate train", description=__doc__)
    parser.add_argument("--run", default="runs/tiny", help="run folder")
    parser.add_argument("--size", default="tiny", help="a file of conf/sizes/")
    parser.add_argument("--data", default="world", help="world, clips (three real clips), or a folder of videos")
    parser.add_argument("--teacher", default="builtin", help="builtin, scratch, or a safetensors file")
    parser.add_argument("--clips", type=int, default=512, help="teacher trajectories for the initialisation")
    args, rest = parser.parse_known_args(argv)
    args.rest = rest
    console, run = Console(), Path(args.run)
    _require_room(run, console)
    done: list[tuple[Stage, dict[str, Any]]] = []
    for stage in stages(args):
        anew = any(not mark["skipped"] for _, mark in done)
        done.append((stage, run_stage(stage, run, console, anew)))
    table = Table("stage", "time", "result", title=f"{run}")
    for stage, mark in done:
        minutes, seconds = divmod(round(mark["seconds"]), 60)
        table.add_row(stage.name, f"{minutes}:{seconds:02d}" + (" (before)" if mark["skipped"] else ""), mark["result"])
    console.print(table)
    console.print(f"videos       {run}/rollouts/ (state to the right of each video), strips beside them")
    console.print(f"gallery      {run}/distill/gallery.html")
    console.print("tensorboard  make tensorboard")
