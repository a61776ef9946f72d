"""`adastate study`: trains and measures the arms of conf/study/arms.yaml, and reports on the completed runs.

Seed 0 of all arms comes before seed 1 of any, so an interrupted study has complete comparisons. Started again, it
resumes. `adastate study report` rewrites the report at any time; `adastate study decide` decides the claims from
records alone.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from rich.console import Console
from rich.table import Table as Rich

from adastate.config.schema import ConfigError
from adastate.runtime.argument_types import whole
from adastate.runtime.arguments import Arguments
from adastate.runtime.spelling import meant
from adastate.runtime.writable import check_writable
from adastate.study import arm_stages, runner
from adastate.study.arm_stages import StudySetting
from adastate.study.part_parsers import PART_PARSERS
from adastate.study.study_files import check_measured, check_part
from adastate.study.study_worlds import study_world
from adastate.study.table import Beginning, Table, Task, read_table
from datamodules.worlds.kinds import WORLDS as BUILT_IN


def parser() -> Arguments:
    """Parser of the arguments of `adastate study`."""
    found = Arguments(
        "adastate study",
        description=__doc__,
        epilog="Subcommands: adastate study list | begin CHUNK SEED | run ARM SEED | report | measure --run R | "
        "real --out R | gate [--clips N --frames N --steps N --guidance W --json F] | decide --records D "
        "[--claims F] | intervene [--run R --checkpoint F --pairs N --hidden N ... --chunks N --rows N --json F]",
    )
    found.add_argument("--budget", default="short", help="name in conf/study/arms.yaml: smoke, teacher, short, ...")
    found.add_argument(
        "--world", choices=BUILT_IN, default="mist", help="mist, circuit, fog, journey or plain: docs/guide/study.md"
    )
    found.add_argument(
        "--only",
        nargs="+",
        default=[],
        help="groups: core, ratios, more_ratios, alpha, systems, errors, more_errors, anchors, carrier, keys, "
        "gradient, reach, long, switches, beyond",
    )
    found.add_argument(
        "--jobs", type=whole(1), default=os.cpu_count() or 1, help="runs at a time; default one per core"
    )
    found.add_argument("--out", type=Path, help="folder; default runs/study/<world>")
    found.add_argument("--teacher", default="", help="safetensors file, or scratch to train it first; default: bundled")
    found.add_argument("--codec", default="", help="the same for the codec, which must match the teacher")
    found.add_argument("--table", type=Path, help="file to use instead of conf/study/arms.yaml")
    found.add_argument(
        "--record",
        type=Path,
        help="folder for one JSON file per run; runs that it has are not repeated (default: in the study's folder)",
    )
    found.add_argument("--keep", action="store_true", help="keep the checkpoints of finished runs")
    return found


def setting(args: argparse.Namespace, table: Table) -> StudySetting:
    study_world(args.world)
    if args.budget not in table.budgets:
        raise ConfigError(f"no budget {args.budget!r}; {meant(args.budget, table.budgets)}")
    if bool(args.teacher) != bool(args.codec) and args.world != "plain":
        raise ConfigError("a teacher works only with its own codec: give --teacher and --codec together")
    if args.codec == arm_stages.SCRATCH and (args.world == "plain" or args.teacher != arm_stages.SCRATCH):
        raise ConfigError("--codec scratch needs --teacher scratch too, and a world other than plain")
    for file in (args.teacher, args.codec):
        if file and file not in (arm_stages.SCRATCH, study_world(args.world).weights) and not Path(file).is_file():
            raise ConfigError(f"no weights at {file}")
    root = args.out or Path("runs/study") / f"{args.world}{table.budgets[args.budget].suffix}"
    check_writable(root, "give another folder with --out")
    if args.record is not None:
        check_writable(args.record, "give another folder with --record")
    return StudySetting(root, args.world, table.budgets[args.budget], args.teacher, args.codec)


def prepare_study(study: StudySetting, console: Console) -> None:
    """Runs the stages that all runs share, in one process; other processes wait for it."""
    study.base.mkdir(parents=True, exist_ok=True)
    with runner.claimed(study.base, wait=True):
        arm_stages.write_prompts(study)
        runner.stage_runner(study, study.base, console).run_stages(arm_stages.shared(study))


def run_study(args: argparse.Namespace, words: Sequence[str]) -> None:
    table, console = read_table(args.table), Console()
    study = setting(args, table)
    tasks = table.tasks(study.budget, args.only)
    from adastate.study import made_from, records, report  # import torch

    prepare_study(study, console)
    elsewhere: list[Task] = []
    if args.record is not None:
        folder = records.records_folder(study.root, study.world, args.record)
        elsewhere = made_from.recorded_elsewhere(study, tasks, folder)
    open_ = [t for t in tasks if t not in elsewhere and not _is_done(study, t)]
    known = f" ({len(elsewhere)} of them elsewhere, by their records in {folder})" if elsewhere else ""
    console.print(f"{len(tasks) - len(open_)} of {len(tasks)} runs are done{known}; running {args.jobs} at a time")
    failed = runner.run_all(
        [t for t in runner.in_order(open_) if isinstance(t, Task) or not _has_begun(study, t)],
        lambda task: runner.command(task, words),
        lambda task: task.folder(study.root) / runner.LOG,
        args.jobs,
        lambda text: console.print(text, highlight=False),
        lambda task: isinstance(task, Beginning) or _may_begin(study, task),
    )
    records.write_records(study.root, table, args.record, made_from=partial(made_from.made_from, study))
    page = report.write_report(study.root, table, args.budget, args.only)
    console.print(f"report     {page}\n           {page.with_name('report.md')}")
    if failed:
        raise SystemExit(
            f"adastate study: {len(failed)} of {len(tasks)} runs failed; run the same command to try again"
        )


def _is_done(study: StudySetting, task: Task) -> bool:
    stages = runner.stage_runner(study, task.folder(study.root))
    return not arm_stages.has_changed(study, task) and all(map(stages.is_done, arm_stages.stages_of_run(study, task)))


def _has_begun(study: StudySetting, beginning: Beginning) -> bool:
    stages = runner.stage_runner(study, beginning.folder(study.root))
    return all(map(stages.is_done, arm_stages.initialisation(study, beginning)))


def _may_begin(study: StudySetting, task: Task) -> bool:
    """Whether a run's prerequisites exist: its initialisation, and the student that it streams with."""
    student = arm_stages.student_folder(study, task)
    lent = student == task.folder(study.root) or (student / "student.safetensors").is_file()
    return lent and _has_begun(study, task.beginning)


def show_runs(table: Table, budget: str, only: Sequence[str]) -> None:
    """Prints the runs in order."""
    told = Rich("", "arm", "seed", "what it is", title=budget)
    for i, task in enumerate(table.tasks(table.budgets[budget], only), 1):
        told.add_row(str(i), task.arm.name, str(task.seed), task.arm.about)
    Console().print(told)


def _run_part(what: str, args: argparse.Namespace) -> None:
    """Runs one subcommand; nothing has imported torch up to here."""
    check_part(args)
    if what == "gate":
        if not (args.teacher and args.codec) and not study_world(args.world).weights:
            raise ConfigError(
                f"no teacher is bundled for the world {args.world}: train one with `adastate study --world "
                f"{args.world} --budget teacher`, and give its files with --teacher and --codec"
            )
        from adastate.study.teacher_gate import gate_command

        gate_command(args)
    elif what == "intervene":
        from adastate.study.intervene import intervene_command

        intervene_command(args)
    elif what == "decide":
        from adastate.study.claims import decide_command

        decide_command(args)
    else:
        from adastate.study import measure

        if what == "real":
            measure.measure_real(args.out, args.codec, args.world, args.rollouts, args.horizons, args.seed)
        else:
            measure.measure_run(args.run, args.world, args.rollouts, args.horizons, args.seed, args.out, args.arm)


def main(argv: list[str]) -> None:
    what, rest = (argv[0], argv[1:]) if argv and not argv[0].startswith("-") else ("", argv)
    if what in PART_PARSERS:
        _run_part(what, PART_PARSERS[what]().parse_args(rest))
    elif what == "begin":
        options = parser()
        options.add_argument("chunk", type=whole(1))
        options.add_argument("seed", type=whole(0))
        args = options.parse_args(rest)
        study = setting(args, read_table(args.table))
        prepare_study(study, Console())
        runner.make_beginning(study, Beginning(args.chunk, args.seed), Console())
    elif what == "run":
        options = parser()
        options.add_argument("arm")
        options.add_argument("seed", type=whole(0))
        args = options.parse_args(rest)
        table = read_table(args.table)
        if args.arm not in table.arms:
            raise ConfigError(f"no arm {args.arm!r}; {meant(args.arm, table.arms)}")
        study, task = setting(args, table), Task(table.arms[args.arm], args.seed)
        from adastate.study import made_from, records

        prepare_study(study, Console())
        runner.make_beginning(study, task.beginning, Console())
        runner.run_one(study, task, Console(), args.keep)
        told = partial(made_from.made_from, study)
        records.write_records(study.root, table, args.record, only=task, made_from=told)
    elif what == "report":
        args = parser().parse_args(rest)
        table = read_table(args.table)
        root = setting(args, table).root
        check_measured(root)
        from adastate.study import report

        print(f"report     {report.write_report(root, table, args.budget, args.only)}")
    elif what == "list":
        args = parser().parse_args(rest)
        show_runs(read_table(args.table), args.budget, args.only)
    elif what:
        parts = ("list", "begin", "run", "report", *PART_PARSERS)
        parser().error(f"no subcommand {what!r}; {meant(what, parts)}")
    else:
        run_study(parser().parse_args(rest), rest)
