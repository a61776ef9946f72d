"""Parameters, memory, steps and FLOP of a stage, before it runs and without building a network."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from rich.console import Console
from rich.table import Column, Table

from adastate.config.schema import Config, ConfigError
from adastate.plan import sharing, trajectory_cost
from adastate.plan.configured import configured_run
from adastate.plan.job import job_needs
from adastate.plan.memory import STAGES, States, host_bytes, states
from adastate.plan.runs import Run, RunSetting, step_flops

GIB = 2**30
USABLE = 0.92
"""Share of a GPU's memory to plan with; CUDA, NCCL and fragmentation take the rest."""

NAMES = {"ema": "EMA", "gathered": "gathered for a pass"}
PARTS = ("weights", "gradients", "optimiser", "ema", "buckets", "gathered")


def memory_layout(run: Run, at: RunSetting) -> dict[str, Any]:
    """Bytes of one rank: what every network holds, the encoders, what each phase adds, and the peak."""
    nets: dict[str, States] = {n.name: states(n, at.zero, at.ranks, run.dtype(n, at.zero)) for n in run.nets}
    own = {e.name: e.bytes for e in run.encoders if e.device == "rank" and e.bytes}
    host = {e.name: e.bytes for e in run.encoders if e.device != "rank" and e.bytes}
    still = sum(s.still for s in nets.values()) + max(s.gathered for s in nets.values()) + sum(own.values())
    phases, totals = {}, {}
    for phase in run.phases(at):
        gradients = nets[phase.learning].gradients if phase.learning else 0
        totals[phase.name] = still + gradients + phase.total
        phases[phase.name] = {"parts": phase.parts, "gradients": gradients, "total": totals[phase.name]}
    worst = max(totals, key=lambda name: totals[name])
    return {
        "zero": at.zero,
        "batch": at.batch,
        "checkpointing": at.checkpointing,
        "networks": {name: {part: getattr(s, part) for part in PARTS} for name, s in nets.items()},
        "encoders": own,
        "processor": host,
        "phases": phases,
        "peak": totals[worst],
        "peak phase": worst,
    }


def smallest_change(run: Run, at: RunSetting, limit: float) -> list[str] | None:
    """The fewest changes that bring the peak to at most `limit` bytes; [] if none is needed, None if none suffices."""
    best: tuple[tuple[int, ...], list[str]] | None = None
    sharded = any(not net.trained for net in run.nets)
    stages = [s for s in STAGES[STAGES.index(at.zero) :] if at.ranks > 1 or s == at.zero]
    for again in {at.checkpointing, at.checkpointing or any(net.size for net in run.nets)}:
        variant = run.with_checkpointing() if again and not at.checkpointing else run
        for stage in stages:
            if stage == "3_teacher" and not sharded:
                continue
            for batch in dividing_micro_batches(run, at):
                changes, teacher = list[str](), stage == "3_teacher" and at.zero != stage
                if again != at.checkpointing:
                    changes.append("activation checkpointing")
                if stage != at.zero and not at.zero.startswith("3"):
                    changes.append(f"ZeRO-{stage[0]}")
                if batch != at.batch:
                    changes.append(f"micro batch {batch}")
                if teacher:
                    changes.append("a sharded teacher")
                order = (len(changes), STAGES.index(stage), at.batch // batch, int(again))
                if best is not None and order >= best[0]:
                    continue
                if memory_layout(variant, replace(at, zero=stage, batch=batch, checkpointing=again))["peak"] <= limit:
                    best = (order, changes)
    return None if best is None else best[1]


def dividing_micro_batches(run: Run, at: RunSetting) -> list[int]:
    """Micro batches up to the current one by which the global batch is divisible."""
    every = range(at.batch, 0, -1)
    return [b for b in every if run.global_batch is None or run.global_batch % replace(at, batch=b).micro == 0]


def plan(run: Run, at: RunSetting, memory: float, rate: float) -> dict[str, Any]:
    """All figures, in bytes, FLOP and seconds; `memory` per GPU in GiB, `rate` per GPU in TFLOP/s."""
    whole = run.global_batch or at.micro
    limit = memory * GIB * USABLE
    stages = [s for s in STAGES if s != "3_teacher" or any(not net.trained for net in run.nets)]
    table = {stage: memory_layout(run, replace(at, zero=stage)) for stage in stages}
    flop = step_flops(run.works) * whole
    fits = {stage: smallest_change(run, replace(at, zero=stage), limit) for stage in stages}
    return {
        "stage": run.kind,
        "precision": run.precision,
        "parameters": {
            **{net.name: net.parameters for net in run.nets},
            **{e.name: e.parameters for e in run.encoders},
        },
        "ranks": at.ranks,
        "micro batch": at.batch,
        "global batch": whole,
        "accumulation": whole // at.micro,
        "iterations": run.iterations,
        "steps": run.steps,
        "samples": run.iterations * whole,
        "latent tokens a sample": run.tokens * run.frames,
        "tokens an iteration": run.network_tokens * whole,
        "flop": {
            **{work.name: work.flop * whole for work in run.works},
            "iteration": flop,
            "run": flop * run.iterations,
        },
        "tflops": rate,
        "seconds an iteration": flop / (rate * 1e12 * at.ranks),
        "memory": table,
        "stream": run.stream(at),
        "chosen": at.zero,
        "gpu": memory * GIB,
        "usable": limit,
        "changes to fit": fits,
        "shared": sharing.sharing_figures(run, at, rate, lambda other: memory_layout(run, other)["peak"]),
    }


def plan_stage(config: Config, args: argparse.Namespace) -> None:
    """`adastate plan`: the plan of a configuration, as tables or as JSON."""
    trainer = config.lightning.get("trainer") or {}
    gpus = args.gpus if args.gpus is not None else _devices(trainer.get("devices"))
    nodes = args.nodes if args.nodes is not None else int(trainer.get("num_nodes") or 1)
    if args.trajectories is not None:
        asked = trajectory_cost.PathOrder(args.trajectories, args.steps, gpus, nodes)
        made = trajectory_cost.trajectories(config, asked, args.tflops)
        if args.json:
            print(json.dumps(made, indent=1))
        else:
            trajectory_cost.show_trajectories(made, Console(), asked, args.memory, args.memory * GIB * USABLE)
        return
    try:
        run = configured_run(config)
    except ValueError as error:  # Size and StreamSpec raise one sentence
        raise ConfigError(str(error)) from error
    zero, ranks = args.zero or _stage(trainer.get("strategy")), gpus * nodes
    at, note = fitting_setting(
        run, RunSetting(zero, ranks, run.batch, run.checkpointing, sharing.sharing_degree(config, ranks))
    )
    found = plan(run, at, args.memory, args.tflops)
    a_process = sum(host_bytes(net, at.zero, run.dtype(net, at.zero)) for net in run.nets)
    found["host"] = gpus * (a_process + sum(e.bytes for e in run.encoders))
    if args.job:
        print(job_needs(found, gpus).lines())
    elif args.json:
        print(json.dumps(found, indent=1))
    else:
        show_plan(found, Console(), note)


def fitting_setting(run: Run, at: RunSetting) -> tuple[RunSetting, str]:
    """The setting with a micro batch that divides the global batch, and a note if that was changed.

    Raises:
        ConfigError: there is no such micro batch.
    """
    whole, micro = run.global_batch, at.micro
    if whole is None or whole % micro == 0:
        return at, ""
    possible = dividing_micro_batches(run, at)
    if not possible:
        raise ConfigError(
            f"global_batch {whole} is not a multiple of {at.ranks} processes: change one of them, "
            f"for example --model.global_batch={-(-whole // at.ranks) * at.ranks}"
        )
    note = (
        f"global_batch {whole} is not a multiple of {at.ranks} processes x batch {at.batch}: "
        f"planned with --data.batch={possible[0]}"
    )
    return replace(at, batch=possible[0]), note


def show_plan(found: dict[str, Any], console: Console, note: str = "") -> None:
    """Prints a plan as tables."""
    console.print(
        f"[bold]{found['stage']}[/bold], precision {found['precision']}, {found['ranks']} ranks"
        f"{sharing.sharing_line(found)} x micro batch {found['micro batch']} x {found['accumulation']} accumulated "
        f"= {found['global batch']} samples per iteration"
    )
    if note:
        console.print(f"[yellow]{note}[/yellow]")
    table = Table("network", "parameters", box=None)
    for name, count in found["parameters"].items():
        table.add_row(name, f"{count:,}")
    console.print(table)

    chosen = found["chosen"]
    stages = list(found["memory"])
    table = Table(
        Column("GiB a rank", no_wrap=True),
        *(("DDP" if s == "0" else f"ZeRO-{s}").replace("_", " + ") for s in stages),
        box=None,
    )
    for name, values in _rows(found):
        table.add_row(name, *(f"{v / GIB:.2f}" if v else "-" for v in values))
    peaks = [found["memory"][s]["peak"] for s in stages]
    table.add_row("[bold]peak[/bold]", *(f"[{_colour(p, found)}]{p / GIB:.1f}[/]" for p in peaks))
    console.print(table)
    console.print("Not all parts are held at the same time: the peak is that of the worst phase.", style="dim")
    for name, size in found["memory"][chosen]["processor"].items():
        console.print(f"{name}: {size / GIB:.1f} GiB of each process's host memory")

    console.print(f"host memory of a machine: {found['host'] / GIB:.0f} GiB, while its processes start")
    if found["stream"]:
        console.print(f"additionally, a stream as run by previews: {found['stream'] / GIB:.2f} GiB of cache per prompt")
    size, usable = found["gpu"] / GIB, found["usable"] / GIB
    for stage in stages:
        name = "DDP" if stage == "0" else f"ZeRO-{stage}".replace("_", " + ")
        console.print(
            f"{'> ' if stage == chosen else '  '}{name}: {_verdict(found['changes to fit'][stage], size, usable)}; "
            f"peak in {found['memory'][stage]['peak phase'].replace(':', ',')}"
        )

    sharing.show_sharing(found["shared"], console)
    flop = found["flop"]
    table = Table("work of all ranks", "TFLOP", box=None)
    for name, value in flop.items():
        table.add_row(name, f"{value / 1e12:,.3f}" if value < 1e13 else f"{value / 1e12:,.0f}")
    console.print(table)
    steps = ", ".join(f"{n:,} of the {name}" for name, n in found["steps"].items())
    console.print(
        f"{found['iterations']:,} iterations: {found['samples']:,} samples of {found['latent tokens a sample']:,} "
        f"tokens; optimiser steps: {steps}; {found['tokens an iteration']:.3g} tokens per iteration through all "
        "networks"
    )
    seconds = found["seconds an iteration"]
    console.print(
        f"{_time(seconds)} per iteration and {_time(seconds * found['iterations'])} in all at {found['tflops']:g} "
        "TFLOP/s per GPU, without waiting for data, networks between GPUs, previews or decoding"
    )


def _rows(found: dict[str, Any]) -> Iterator[tuple[str, list[int]]]:
    each = list(found["memory"].values())
    for net in each[0]["networks"]:
        for part in PARTS:
            values = [m["networks"][net][part] for m in each]
            if any(values):
                yield f"{net}: {NAMES.get(part, part)}", values
    for name in each[0]["encoders"]:
        yield name, [m["encoders"][name] for m in each]
    parts = dict.fromkeys(part for phase in each[0]["phases"].values() for part in phase["parts"])
    for part in parts:
        values = [max(p["parts"].get(part, 0) for p in m["phases"].values()) for m in each]
        if any(values):
            yield part, values


def _verdict(changes: list[str] | None, size: float, usable: float) -> str:
    if changes is None:
        return f"does not fit {size:g} GiB ({usable:.1f} usable), whatever is changed here"
    if not changes:
        return f"fits {size:g} GiB"
    return f"does not fit {size:g} GiB ({usable:.1f} usable); it would with {' and '.join(changes)}"


def _colour(peak: float, found: dict[str, Any]) -> str:
    return "green" if peak <= found["usable"] else "red"


def _time(seconds: float) -> str:
    for unit, length in (("d", 86400.0), ("h", 3600.0), ("min", 60.0)):
        if seconds >= 2 * length:
            return f"{seconds / length:.1f} {unit}"
    return f"{seconds:.3g} s"


def _devices(given: Any) -> int:
    if isinstance(given, list):
        return len(given)
    try:
        return max(1, int(given))
    except (TypeError, ValueError):
        return 1


def _stage(strategy: Any) -> str:
    if not isinstance(strategy, dict) or not str(strategy.get("class_path")).endswith("ZeroStrategy"):
        return "0"
    given = strategy.get("init_args") or {}
    return "3_teacher" if given.get("shard_frozen") else str(given.get("stage", 2))
