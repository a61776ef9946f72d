"""Ranks that share samples: memory of a rank, bytes that it sends, and the degree from which that is faster."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from rich.console import Console
from rich.table import Table

from adastate.config.schema import Config, ConfigError
from adastate.models.size import check_degree
from adastate.plan.cost import CountedPass
from adastate.plan.exchange import degrees, exchange
from adastate.plan.runs import ClipRun, DistillRun, Run, RunSetting

GIB = 2**30


def sharing_degree(config: Config, ranks: int) -> int:
    """The degree of a configuration's strategy.

    Raises:
        ConfigError: it does not fit `ranks`.
    """
    strategy = (config.lightning.get("trainer") or {}).get("strategy")
    degree = int((strategy.get("init_args") or {}).get("sequence_parallel", 1)) if isinstance(strategy, dict) else 1
    if degree < 1 or ranks % degree:
        fitting = [d for d in range(1, ranks + 1) if ranks % d == 0]
        raise ConfigError(
            f"sequence_parallel is {degree}, but {ranks} ranks cannot be divided into groups of it: use one of "
            f"{', '.join(map(str, fitting))}"
        )
    return degree


def sharing_figures(run: Run, at: RunSetting, tflops: float, peak: Callable[[RunSetting], int]) -> dict[str, Any]:
    """By network, the figures of its largest passes at every degree; empty for a stage without such networks.

    Args:
        peak: bytes of a rank in another setting.

    Raises:
        ConfigError: the setting's degree is not possible.
    """
    passes: dict[str, CountedPass] = {}
    if isinstance(run, DistillRun):
        rolled = run.recipe.passes(run.recipe.exits[-1], False)
        passes = {net.name: CountedPass(run.frames) for net in run.nets}
        passes["student"] = max(rolled, key=lambda p: (p.frames, p.seen))
    elif isinstance(run, ClipRun):
        passes = {run.nets[0].name: max(run.passes, key=lambda p: p.frames)}
    if not passes:
        return {}
    sizes = {net.name: net.size for net in run.nets if net.size is not None}
    most = max(8, at.shared)
    possible = set.intersection(*(set(degrees(size, run.tokens, most)) for size in sizes.values()))
    for size in sizes.values():
        try:
            check_degree(at.shared, size.heads, run.tokens)
        except ValueError as error:
            raise ConfigError(str(error)) from error
    groups = max(1, at.ranks // at.shared)
    found = {
        name: exchange(
            sizes[name], run.tokens, work, at.batch, run.dtype(run.net(name), at.zero).low, tflops * 1e12, most
        )
        for name, work in passes.items()
    }
    return {
        "degree": at.shared,
        "peak": {d: peak(replace(at, ranks=groups * d, shared=d)) for d in sorted(possible)},
        "networks": found,
    }


def sharing_line(found: dict[str, Any]) -> str:
    """The part of a plan's first line about shared samples."""
    degree = (found["shared"] or {}).get("degree", 1)
    return f", {degree} a sample," if degree > 1 else ""


def show_sharing(found: dict[str, Any], console: Console) -> None:
    """Prints the table."""
    if not found:
        return
    columns = list(found["peak"])
    rows = Table(
        "ranks that share a sample", *(f"{d}{' *' if d == found['degree'] else ''}" for d in columns), box=None
    )
    rows.add_row("peak, GiB a rank", *(f"{found['peak'][d] / GIB:.1f}" for d in columns))
    for name, each in found["networks"].items():
        sent = [each["bytes a layer"][d] for d in columns]
        rows.add_row(f"{name}: MB sent a layer", *(f"{b / 1e6:.1f}" if b else "-" for b in sent))
        for network, times in each["seconds a pass"].items():
            start = each["pays from"][network]
            note = f", pays off from {start}" if start else ", does not pay off"
            rows.add_row(f"{name}: s a pass, {network}{note}", *(f"{times[d]:.3g}" for d in columns))
    console.print(rows)
    console.print(
        "For the same number of samples at a time, on more ranks; network rates are assumptions.", style="dim"
    )
