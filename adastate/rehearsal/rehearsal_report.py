"""A verdict as tables, and as JSON."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from rich.console import Console
from rich.table import Column, Table

from adastate.rehearsal.accelerators import ACCELERATORS, USABLE
from adastate.rehearsal.rehearsal_verdict import HostEvent, RehearsalVerdict

ESTIMATE = "estimate, never measured"
GIB = 2**30
COLUMNS = ("peak GiB", "kernels", "TFLOP", "other GB", "sent GB", "s")


def verdict_as_json(verdict: RehearsalVerdict) -> dict[str, Any]:
    """In bytes, FLOP and seconds; the seconds are estimates."""
    return {
        **asdict(verdict),
        "peak phase": verdict.peak.name if verdict.peak else None,
        "peak": verdict.peak.peak if verdict.peak else None,
        "seconds": {
            "what": ESTIMATE,
            **{device: verdict.seconds(device) for device in ACCELERATORS},
            "sources": {device: about.source for device, about in ACCELERATORS.items()},
        },
    }


def show_rehearsal(verdict: RehearsalVerdict, name: str, console: Console) -> None:
    """Prints the verdict, for the device with that name."""
    about = verdict.device
    depths = ", ".join(map(str, verdict.depths))
    how = "all of them run" if verdict.full_depth else "extrapolated from two and three layers"
    console.print(
        f"[bold]{verdict.stage}[/bold], rank {verdict.rank} of {verdict.ranks} on {about.name}: {verdict.parts} micro "
        f"batches, depths {depths}, {how}"
    )
    if verdict.phases:
        _phases(verdict, name, console)
        usable = USABLE * about.memory_gib
        worst = verdict.peak
        assert worst is not None
        saved = f"; checkpoint of this rank: {verdict.checkpoint / GIB:.1f} GiB" if verdict.checkpoint else ""
        console.print(
            f"peak {worst.peak / GIB:.1f} GiB in {worst.name}, of {usable:.0f} usable ({about.memory_gib:.0f} GiB); "
            f"weights on the host of a machine while it starts: {verdict.host / GIB:.0f} GiB{saved}"
        )
        times = ", ".join(f"{device} {verdict.seconds(device):.3g} s" for device in ACCELERATORS)
        console.print(f"per {verdict.unit}: {times} ([italic]{ESTIMATE}[/italic])")
    _events("the host waits for the device", verdict.waits, console)
    _events("copies from the host to the device", verdict.copies, console)
    for note in verdict.notes:
        console.print(f"[yellow]{note}[/yellow]")
    for error in verdict.errors:
        console.print(f"error {error}", style="red", highlight=False, soft_wrap=True, markup=False, emoji=False)
    if not verdict.errors:
        console.print("[green]no mistakes were found[/green]")


def _phases(verdict: RehearsalVerdict, name: str, console: Console) -> None:
    title = f"one {verdict.unit}, of this rank; seconds on {name}: {ESTIMATE}"
    table = Table(
        Column("phase", no_wrap=True), *(Column(head, justify="right") for head in COLUMNS),
        "bound by", box=None, padding=(0, 1, 0, 0), title=title, title_justify="left",
    )  # fmt: skip
    for phase in verdict.phases:
        table.add_row(
            phase.name,
            f"{phase.peak / GIB:.2f}",
            f"{phase.kernels:,.0f}",
            f"{sum(phase.flop.values()) / 1e12:,.1f}",
            f"{phase.moved['other'] / 1e9:,.0f}",
            f"{phase.sent / 1e9:,.1f}",
            f"{phase.seconds[name]:.3g}",
            phase.bound,
        )
    console.print(table)


def _events(title: str, events: list[HostEvent], console: Console) -> None:
    if not events:
        return
    console.print(f"[italic]{title}[/italic]")
    for event in events:
        size = f", {event.bytes / 2**20:,.1f} MiB" if event.bytes else ""
        told = f"{event.times:6,.0f}  {event.phase}, {event.line}: {event.what}{size}"
        console.print(told, highlight=False, soft_wrap=True, markup=False, emoji=False)
