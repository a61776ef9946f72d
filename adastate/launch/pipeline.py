"""`adastate train`: the whole pipeline. Every stage is a separate command, run in its own process.

When it is started again, the pipeline skips stages that were completed with the same settings, resumes an interrupted
stage from its last checkpoint, and repeats the stages after one that has changed. stages.json lists all stages with
their seconds, losses at the beginning and at the end, and results.
"""

from __future__ import annotations

import argparse
import os
import shutil
import tempfile
from pathlib import Path
from typing import get_args

from rich.console import Console
from rich.table import Table

from adastate.config.command_line import read_command, unknown_option
from adastate.config.conf_files import conf_path
from adastate.config.schema import PLAIN
from adastate.config.validate import check_words
from adastate.launch.stage_runner import StageMark, StageRunner
from adastate.launch.stages import INITS, shipped, stages
from adastate.runtime import atomic, file_kind
from adastate.runtime.argument_types import whole
from adastate.runtime.arguments import Arguments
from adastate.runtime.spelling import likeliest_word

NEEDED_GB = 2.0
"""Free disk space that a run at the tiny size requires; it writes about a third of it."""


FORMATS = (".safetensors", ".pt", ".pth", ".ckpt", ".bin")
"""Endings of files of weights."""


def _require_room(run: Path, console: Console) -> None:
    try:
        run.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=run):
            pass
    except OSError as error:
        raise SystemExit(f"adastate train: cannot write to {run} ({error.strerror}); set RUN=another/folder") from error
    free = shutil.disk_usage(run).free / 2**30
    if free < NEEDED_GB:
        raise SystemExit(
            f"adastate train: {free:.1f} GB free at {run}, a run needs {NEEDED_GB:.0f}; make room or set RUN=..."
        )


def unfit_world(args: argparse.Namespace) -> str:
    """Why the pipeline cannot be run in the chosen world, in a sentence; empty if it can."""
    if args.world in ("journey", "fog", "circuit", "mist"):
        return f"the world {args.world} is made for the study: adastate study --world {args.world}"
    if (args.world == "flight") != (args.size == "flight"):
        return f"the world {args.world} does not fit the size {args.size}: leave out --size"
    if args.world != "flight":
        return ""
    from adastate.encoders import residual_codec  # which brings torch with it

    if args.data != "world":
        return f"the flight world makes its own clips: leave out --data {args.data}, or take the plain world"
    if not residual_codec.SHIPPED["flight"].is_file():
        return (
            f"the codec of the flight world is missing, {residual_codec.SHIPPED['flight']}: `make train-codec "
            "WORLD=flight` trains one; copy it there"
        )
    if args.teacher == "builtin" and not shipped(args.world):
        return (
            "no teacher of the flight world is bundled yet: `make train WORLD=flight TEACHER=scratch` trains one "
            "first, which takes hours; TEACHER=file uses an existing one"
        )
    return ""


def parser() -> Arguments:
    """What `adastate train` takes, beside the overrides of its stages."""
    parser = Arguments("adastate train", description=__doc__)
    parser.add_argument("--run", type=os.path.expanduser, default="runs/tiny", help="run folder")
    parser.add_argument("--preset", choices=("default", "full"), default="default", help="full: every kind of stage")
    parser.add_argument("--init", choices=INITS, default=INITS[0], help="initialisation of the preset full")
    sizes = sorted(p.stem for p in conf_path("conf/sizes").glob("*.yaml"))
    parser.add_argument(
        "--world",
        choices=get_args(PLAIN["run"]["world"]),
        help="built-in world of the clips and prompts: plain or flight",
    )
    parser.add_argument("--size", choices=sizes, help="a file of conf/sizes/ (default: that of the world)")
    parser.add_argument(
        "--data",
        type=os.path.expanduser,
        default="world",
        help="world, clips (three real clips), or a folder of videos",
    )
    parser.add_argument(
        "--teacher", type=os.path.expanduser, default="builtin", help="builtin, scratch, or a safetensors file"
    )
    parser.add_argument(
        "--system", default="", help="name in conf/systems/ of the stream to train; default: that of the size"
    )
    parser.add_argument("--clips", type=whole(1), default=512, help="teacher trajectories for the initialisation")
    return parser


def main(argv: list[str]) -> None:
    options = parser()
    args, rest = options.parse_known_args(argv)
    args.rest = rest
    if unknown := unknown_option(rest, options.options, stages=True):
        raise SystemExit(f"adastate train: {unknown}")
    args.size = args.size or ("flight" if args.world == "flight" else "tiny")
    args.world = args.world or ("flight" if args.size == "flight" else "plain")
    if args.size.startswith("wan"):
        raise SystemExit(
            "adastate train: the pipeline is for the tiny size, whose clips and prompts it makes. The stages of "
            f"{args.size} are called one by one, with prompts of your own: docs/guide/wan.md has the commands"
        )
    for option, remedy in {
        "--run.dir": "the folder is given by --run",
        "--run.stage": "each stage names itself",
    }.items():
        if any(word.partition("=")[0] == option for word in rest):
            raise SystemExit(f"adastate train: {option} is not for the pipeline: {remedy}; leave it out")
    if args.teacher not in ("builtin", "scratch") and not Path(args.teacher).exists():
        raise SystemExit(
            f"adastate train: no teacher at {args.teacher}: give builtin, scratch to train one, or a safetensors file"
        )
    if Path(args.teacher).is_file():
        try:
            file_kind.kind(Path(args.teacher))  # and not after the stages that come before it
        except ValueError as error:
            raise SystemExit(f"adastate train: {error}") from error
    if Path(args.teacher).is_dir() and not any(p.suffix in FORMATS for p in Path(args.teacher).rglob("*")):
        raise SystemExit(f"adastate train: {args.teacher} holds no weights: give a teacher's .safetensors file")
    if args.data != "world" and args.teacher not in ("builtin", "scratch"):
        raise SystemExit(
            f"adastate train: with --data {args.data} a teacher is trained on these clips: leave out --teacher "
            f"{args.teacher}"
        )
    if Path(args.data).is_file():
        raise SystemExit(f"adastate train: {args.data} is a file: give the folder that holds the videos")
    if args.data not in ("world", "clips") and not Path(args.data).is_dir():
        near = likeliest_word(args.data, ("world", "clips"), cutoff=0.7)
        remedy = f"did you mean {near}?" if near else "give the one that holds the videos, world or clips"
        raise SystemExit(f"adastate train: no folder {args.data}: {remedy}")
    if args.init != INITS[0] and args.preset != "full":
        raise SystemExit(
            f"adastate train: --init {args.init} is for --preset full; the default one has no choice there"
        )
    if reason := unfit_world(args):
        raise SystemExit(f"adastate train: {reason}")
    try:
        planned = list(stages(args))
    except ValueError as error:  # no folder of videos there
        raise SystemExit(f"adastate train: {error}") from error
    for stage in planned:  # a mistake in an override shows now, and not after the stages before
        if stage.argv[0] == "fit":
            check_words(*read_command(stage.argv[1:]))
    console, run = Console(), Path(args.run)
    _require_room(run, console)
    done: dict[str, StageMark] = {}
    StageRunner(run, console).run_stages(planned, lambda stage, mark: _record(run, done, stage.name, mark))
    table = Table("stage", "time", "loss", "result", title=f"{run}")
    for name, mark in done.items():
        minutes, seconds = divmod(round(mark.seconds), 60)
        spent = f"{minutes}:{seconds:02d}" + (" (before)" if mark.skipped else "")
        fell = [f"{tag.replace('/loss', '')} {first:.3f} -> {last:.3f}" for tag, (first, last) in mark.losses.items()]
        table.add_row(name, spent, "\n".join(fell), mark.result)
    console.print(table)
    console.print("[dim]loss: means over the first and the last tenth; those of a distillation need not fall")
    console.print(f"videos       {run}/rollouts/ (state to the right of each video), strips beside them")
    console.print(f"gallery      {run}/{'long' if args.preset == 'full' else 'distill'}/gallery.html")
    console.print("tensorboard  make tensorboard")


def _record(run: Path, done: dict[str, StageMark], name: str, mark: StageMark) -> None:
    """Adds a stage to those that are done, and writes what is known of them all, as stages.json."""
    done[name] = mark
    told = [
        {"stage": stage, "seconds": known.seconds, "losses": known.losses, "result": known.result}
        for stage, known in done.items()
    ]
    atomic.write_json(run / "stages.json", told)
