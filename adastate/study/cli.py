"""`adastate study`: trains and measures the arms of conf/study/arms.yaml, and reports on what there is.

Seed 0 of all six anchors comes first, so that whatever interrupts it, the comparison that tells most is complete. Run
again, it goes on. `adastate study report` makes the report anew, at any time.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table as Rich

from adastate.config.schema import ConfigError
from adastate.launch.pipeline import run_stage
from adastate.runtime.argument_types import whole
from adastate.runtime.arguments import Arguments
from adastate.runtime.spelling import meant
from adastate.study import arm_stages, runner
from adastate.study.arm_stages import StudySetting
from adastate.study.table import WORLDS, Table, Task, read_table
from datamodules.worlds.kinds import WORLDS as BUILT_IN

DEPENDS = ("codec", "teacher", "trajectories", "ar", "causal trajectories")
"""Stages after whose change everything below them begins anew."""


def parser() -> Arguments:
    """What `adastate study` takes."""
    found = Arguments(
        "adastate study",
        description=__doc__,
        epilog="Parts of it: adastate study list | run ARM SEED | report | measure --run R | real --out R",
    )
    found.add_argument("--budget", default="short", help="of conf/study/arms.yaml: smoke, short or full")
    found.add_argument(
        "--world", choices=BUILT_IN, default="journey", help="journey, fog or plain: docs/guide/study.md"
    )
    found.add_argument(
        "--only",
        nargs="+",
        default=[],
        help="groups: anchors, carrier, keys, ablations, alpha, gradient, long, switches, beyond, reach",
    )
    found.add_argument("--jobs", type=whole(1), default=os.cpu_count() or 1, help="runs at a time; default one a core")
    found.add_argument("--out", type=Path, help="folder; default runs/study/<world>")
    found.add_argument("--teacher", default="", help="safetensors, or scratch to train it first; default: what ships")
    found.add_argument("--codec", default="", help="the same of the codec, which its teacher goes with")
    found.add_argument("--table", type=Path, help="instead of conf/study/arms.yaml")
    found.add_argument("--keep", action="store_true", help="keep the checkpoints of finished runs")
    return found


def measure_parser(what: str) -> Arguments:
    """Of `adastate study measure`, a run's rollouts, and `real`, real flights: one file of numbers, a few pictures."""
    found = Arguments(f"adastate study {what}", description=measure_parser.__doc__)
    if what == "real":
        found.add_argument("--out", type=Path, required=True, help="folder to write into")
        found.add_argument("--codec", default="builtin", help="safetensors of the codec")
    else:
        found.add_argument("--run", type=Path, required=True, help="run folder of a distilled student")
    found.add_argument("--world", choices=WORLDS, default="plain")
    found.add_argument("--rollouts", type=whole(1), default=32)
    found.add_argument(
        "--horizons", type=whole(1), nargs="+", default=[1, 6, 20], help="stretches, the last is the length"
    )
    found.add_argument("--seed", type=int, default=4242)
    return found


def setting(args: argparse.Namespace, table: Table) -> StudySetting:
    if args.world not in WORLDS:
        raise ConfigError(
            f"there is no study of the world {args.world}: give --world {', '.join(WORLDS)}, or train in it with "
            f"`make train WORLD={args.world}`"
        )
    if args.budget not in table.budgets:
        raise ConfigError(f"no budget {args.budget!r}; {meant(args.budget, table.budgets)}")
    if bool(args.teacher) != bool(args.codec) and args.world != "plain":
        raise ConfigError("a teacher knows the latents of its codec: give --teacher and --codec together")
    if args.codec == arm_stages.SCRATCH and (args.world == "plain" or args.teacher != arm_stages.SCRATCH):
        raise ConfigError("--codec scratch: the study has recipes for journeys alone, and its teacher comes after it")
    for file in (args.teacher, args.codec):
        if file and file != arm_stages.SCRATCH and file not in arm_stages.SHIPPED.values() and not Path(file).is_file():
            raise ConfigError(f"no weights at {file}")
    root = args.out or Path("runs/study") / f"{args.world}{table.budgets[args.budget].suffix}"
    return StudySetting(root, args.world, table.budgets[args.budget], args.teacher, args.codec)


def prepare(study: StudySetting, console: Console) -> None:
    """What all runs share; done by one process, for which others wait."""
    study.base.mkdir(parents=True, exist_ok=True)
    with runner.claimed(study.base, wait=True):
        arm_stages.write_prompts(study)
        restart = False
        for folder, stage in arm_stages.shared(study):
            folder.mkdir(parents=True, exist_ok=True)
            done = run_stage(stage, folder, console, restart, "study", study.root)
            restart = restart or (stage.name in DEPENDS and not done["skipped"])


def run_study(args: argparse.Namespace, words: Sequence[str]) -> None:
    table, console = read_table(args.table), Console()
    study = setting(args, table)
    from adastate.study import report  # which brings torch with it

    tasks = table.tasks(study.budget, args.only)
    prepare(study, console)
    open_ = [t for t in tasks if not _is_done(study, t)]
    console.print(f"{len(tasks) - len(open_)} of {len(tasks)} runs are done, {args.jobs} at a time from here")
    failed = runner.run_all(
        open_,
        lambda task: runner.command(task, words),
        lambda task: task.folder(study.root) / runner.LOG,
        args.jobs,
        lambda text: console.print(text, highlight=False),
    )
    page = report.write(study.root, table, args.budget, args.only)
    console.print(f"report     {page}\n           {page.with_name('report.md')}")
    if failed:
        raise SystemExit(
            f"adastate study: {len(failed)} of {len(tasks)} runs failed; run the same command to try again"
        )


def _is_done(study: StudySetting, task: Task) -> bool:
    here = task.folder(study.root)
    return not arm_stages.has_changed(study, task) and all(
        arm_stages.is_done(s, here, study.root) for s in arm_stages.run(study, task)
    )


def show(table: Table, budget: str, only: Sequence[str]) -> None:
    """The runs in their order."""
    told = Rich("", "arm", "seed", "what it is", title=budget)
    for i, task in enumerate(table.tasks(table.budgets[budget], only), 1):
        told.add_row(str(i), task.arm.name, str(task.seed), task.arm.about)
    Console().print(told)


def main(argv: list[str]) -> None:
    what, rest = (argv[0], argv[1:]) if argv and not argv[0].startswith("-") else ("", argv)
    if what in ("measure", "real"):
        args = measure_parser(what).parse_args(rest)
        from adastate.study import measure

        if what == "real":
            measure.measure_real(args.out, args.codec, args.world, args.rollouts, args.horizons, args.seed)
        else:
            measure.measure_run(args.run, args.world, args.rollouts, args.horizons, args.seed)
    elif what == "run":
        options = parser()
        options.add_argument("arm")
        options.add_argument("seed", type=int)
        args = options.parse_args(rest)
        table = read_table(args.table)
        if args.arm not in table.arms:
            raise ConfigError(f"no arm {args.arm!r}; {meant(args.arm, table.arms)}")
        study, task = setting(args, table), Task(table.arms[args.arm], args.seed)
        prepare(study, Console())
        runner.run_one(study, task, Console(), args.keep)
    elif what == "report":
        args = parser().parse_args(rest)
        table = read_table(args.table)
        root = setting(args, table).root
        from adastate.study import report

        print(f"report     {report.write(root, table, args.budget, args.only)}")
    elif what == "list":
        args = parser().parse_args(rest)
        show(read_table(args.table), args.budget, args.only)
    elif what:
        parts = ("list", "run", "report", "measure", "real")
        parser().error(f"there is no part {what!r}; {meant(what, parts)}")
    else:
        run_study(parser().parse_args(rest), rest)
