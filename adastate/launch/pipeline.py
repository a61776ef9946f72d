"""`adastate train`: the whole pipeline. Every stage is a command of its own, run in a process of its own.

Every stage leaves a mark in <run>/stages/; run again, the pipeline skips what is done with the same settings, goes on
with what was begun from its last checkpoint, and does anew what comes after a stage that has changed. stages.json tells
of all: seconds, losses at the beginning and at the end, results.
"""

from __future__ import annotations

import argparse
import json
import shlex
import shutil
import time
from pathlib import Path
from typing import Any, get_args

from rich.console import Console
from rich.table import Table

from adastate.config.command_line import read_command, unknown_option
from adastate.config.conf_files import conf_path
from adastate.config.schema import PLAIN
from adastate.config.validate import check_words
from adastate.launch import process_group
from adastate.launch.stages import INITS, Stage, shipped, stages
from adastate.launch.tensorboard_reader import curves, ends
from adastate.runtime import atomic, run_paths, signals
from adastate.runtime.argument_types import whole
from adastate.runtime.arguments import Arguments

NEEDED_GB = 2.0
"""Free disk that a run at the tiny size asks for; it writes about a third of it."""


def run_stage(
    stage: Stage, run: Path, console: Console, restart: bool = False, command: str = "train", root: Path | None = None
) -> dict[str, Any]:
    """Runs a stage unless it is done; returns its mark: seconds, losses, result, and whether it was skipped.

    A stage that an earlier call began with the same command goes on from its last checkpoint. `anew` disregards
    what is there, because an earlier stage has changed; `command` is who is told to have failed. A run folder that has
    been moved, or `root` around it, is known again: its marks name it nowhere.
    """
    words = run_paths.stored_words(stage.argv, run, root)
    mark = run / "stages" / f"{stage.name.replace(' ', '-')}.json"
    known = json.loads(mark.read_text(encoding="utf-8")) if mark.is_file() and not restart else {}
    begun = known.get("argv") in (words, stage.argv)
    if begun and known["done"]:
        console.print(f"[green]done before[/] {stage.name}")
        return {**known, "skipped": True}
    argv = list(stage.argv)
    if (run / stage.name / "checkpoints").is_dir():
        argv.append("--ckpt_path=auto" if begun else "--overwrite")
    elif not begun and mark.is_file() and stage.makes is not None and (stage.makes / "index.json").is_file():
        shutil.rmtree(stage.makes)  # what this stage made of other things must not be mixed with what it makes now
    console.rule(f"[bold]{stage.name}", align="left")
    console.print(f"[dim]adastate {shlex.join(argv)}", highlight=False)
    before, since = (known.get("seconds", 0.0), known.get("since", 0.0)) if begun else (0.0, time.time())
    told: dict[str, Any] = {"argv": words, "done": False, "since": since, "seconds": before}
    atomic.write_json(mark, told)
    began = time.monotonic()
    code = process_group.run(argv)
    told["seconds"] = round(before + time.monotonic() - began, 1)
    atomic.write_json(mark, told)
    if signals.stopped(code):
        console.print(f"{stage.name} was asked to stop, and has; run the same command again to go on from here")
        raise SystemExit(signals.AGAIN)
    if code not in (0, signals.ENDED):
        raise SystemExit(
            f"adastate {command}: the stage {stage.name!r} failed (exit {code}); what was done before is kept, run the "
            "same command again to go on from here"
        )
    found = curves(run / stage.name, since=since) if argv[0] == "fit" else {}
    told |= {"done": True, "losses": {tag: ends(values) for tag, values in found.items()}, "result": stage.result()}
    atomic.write_json(mark, told)
    if code == signals.ENDED:
        console.print(f"asked to stop at the end of {stage.name}; run the same command again for the rest")
        raise SystemExit(signals.AGAIN)
    return {**told, "skipped": False}


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
            "WORLD=flight` trains it, to be put there"
        )
    if args.teacher == "builtin" and not shipped(args.world):
        return (
            "no teacher of the flight world ships yet: `make train WORLD=flight TEACHER=scratch` trains one first, in "
            "hours, and TEACHER=file takes one that is there"
        )
    return ""


def parser() -> Arguments:
    """What `adastate train` takes, beside the overrides of its stages."""
    parser = Arguments("adastate train", description=__doc__)
    parser.add_argument("--run", default="runs/tiny", help="run folder")
    parser.add_argument("--preset", choices=("default", "full"), default="default", help="full: every kind of stage")
    parser.add_argument("--init", choices=INITS, default=INITS[0], help="initialisation of the preset full")
    sizes = sorted(p.stem for p in conf_path("conf/sizes").glob("*.yaml"))
    parser.add_argument(
        "--world",
        choices=get_args(PLAIN["run"]["world"]),
        help="built-in world of the clips and prompts: plain or flight",
    )
    parser.add_argument("--size", choices=sizes, help="a file of conf/sizes/ (default: that of the world)")
    parser.add_argument("--data", default="world", help="world, clips (three real clips), or a folder of videos")
    parser.add_argument("--teacher", default="builtin", help="builtin, scratch, or a safetensors file")
    parser.add_argument("--system", default="", help="of conf/systems/, whose stream is trained; default: the size's")
    parser.add_argument("--clips", type=whole(1), default=512, help="teacher trajectories for the initialisation")
    return parser


def main(argv: list[str]) -> None:
    options = parser()
    args, rest = options.parse_known_args(argv)
    args.rest = rest
    if unknown := unknown_option(rest, options.options):
        raise SystemExit(f"adastate train: {unknown}")
    args.size = args.size or ("flight" if args.world == "flight" else "tiny")
    args.world = args.world or ("flight" if args.size == "flight" else "plain")
    if args.size.startswith("wan"):
        raise SystemExit(
            "adastate train: the pipeline is for the tiny size, whose clips and prompts it makes. The stages of "
            f"{args.size} are called one by one, with prompts of your own: docs/guide/wan.md has the commands"
        )
    if args.teacher not in ("builtin", "scratch") and not Path(args.teacher).exists():
        raise SystemExit(
            f"adastate train: no teacher at {args.teacher}: give builtin, scratch to train one, or a safetensors file"
        )
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
    done: list[tuple[Stage, dict[str, Any]]] = []
    for stage in planned:
        restart = any(not mark["skipped"] for _, mark in done)
        done.append((stage, run_stage(stage, run, console, restart)))
        _record(run, done)
    table = Table("stage", "time", "loss", "result", title=f"{run}")
    for stage, mark in done:
        minutes, seconds = divmod(round(mark["seconds"]), 60)
        spent = f"{minutes}:{seconds:02d}" + (" (before)" if mark["skipped"] else "")
        fell = [
            f"{tag.replace('/loss', '')} {first:.3f} -> {last:.3f}" for tag, (first, last) in mark["losses"].items()
        ]
        table.add_row(stage.name, spent, "\n".join(fell), mark["result"])
    console.print(table)
    console.print("[dim]loss: means over the first and the last tenth; those of a distillation need not fall")
    console.print(f"videos       {run}/rollouts/ (state to the right of each video), strips beside them")
    console.print(f"gallery      {run}/{'long' if args.preset == 'full' else 'distill'}/gallery.html")
    console.print("tensorboard  make tensorboard")


def _record(run: Path, done: list[tuple[Stage, dict[str, Any]]]) -> None:
    """What is known of the stages so far, as stages.json."""
    kept = ("seconds", "losses", "result")
    told = [{"stage": stage.name, **{k: mark[k] for k in kept}} for stage, mark in done]
    atomic.write_json(run / "stages.json", told)
