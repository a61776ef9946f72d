"""Report tables about memory and experiments, each with its baselines."""

from __future__ import annotations

import math
from collections.abc import Sequence

from adastate import metrics
from adastate.metrics import Interval
from adastate.study.records import Records, horizon_stretches
from adastate.study.report_page import ReportBlock

MEASURED = ("memory_slope", "memory_error", "memory_relative")

ABOUT = (
    "Slope: change of the ground's hue over the distance flown. 1 is perfect memory; 0 is a constant hue, or one that "
    "always advances by the same amount. Error: distance between the hue that came out and the correct one, in turns. "
    "Relative: error over that of a constant hue. In the mist a passage leads through a bank of fog, in a circuit it "
    "is twelve frames long."
)


def interval_cell(i: Interval, digits: int = 2) -> str:
    """A value with its interval, if it has one; empty if there is no value."""
    if math.isnan(i.value):
        return ""
    value = f"{i.value:.{digits}f}"
    return value if math.isnan(i.low) else f"{value} [{i.low:.{digits}f}, {i.high:.{digits}f}]"


def memory_blocks(records: Records) -> list[ReportBlock]:
    """One table per stretch of horizons."""
    if not records.real.get("memory"):
        return []
    heads = ("", "seeds", "slope", "error", "relative")
    blocks = [ReportBlock("Memory", ABOUT)]
    for at in horizon_stretches(list(records.real["protocol"]["horizons"])):
        rows = [
            (arm, str(len(records.runs[arm])), *(interval_cell(records.mean(m, arm, at), 3) for m in MEASURED))
            for arm in records.runs
        ]
        blocks.append(ReportBlock(f"Memory at {at}", table=(heads, [*rows, *_baselines(records, at)])))
    return blocks


def _baselines(records: Records, at: str) -> list[tuple[str, ...]]:
    real = records.real["memory"][at]

    def row(name: str, slope: float | None, error: float | None) -> tuple[str, ...]:
        known = slope is not None and error is not None and real["hold"]
        return (name, "", f"{slope:.3f}", f"{error:.3f}", f"{error / real['hold']:.3f}") if known else (name, *[""] * 4)

    gate = records.real.get("gate", {}).get("teacher", {})
    return [
        row("true flights, through the codec", real["slope"], real["error"]),
        row("the teacher, within a horizon", gate.get("slope"), gate.get("error")),
        row("a constant hue", 0.0, real["hold"]),
        row("a hue that advances by the mean distance", 0.0, real["mean"]),
        row("an unrelated hue", 0.0, metrics.CHANCE),
    ]


def experiment_blocks(records: Records) -> list[ReportBlock]:
    """Results of the experiments of all arms that have any."""
    arms = [arm for arm in records.runs if any("interventions" in r for r in records.runs[arm].values())]
    if not arms:
        return []
    told = [r["interventions"] for arm in arms for r in records.runs[arm].values() if "interventions" in r]
    kinds = dict.fromkeys((row["deed"], row["hidden"]) for found in told for row in found.get("occlusions", []))
    rows = []
    for arm in arms:
        for deed, hidden in kinds:
            at = f"{hidden} hidden"
            names = ("slope", "error", "hold", "mean", "donor_error", "appeared")
            cells = [interval_cell(records.mean(f"{deed} {name}", arm, at), 3) for name in names]
            rows.append((arm, deed, str(hidden), *cells))
    heads = ("", "change", "hidden", "slope", "error", "constant hue", "mean advance", "from the donor", "appeared")
    text = (
        "All streams pass through one bank of fog, with the content of the true flight. In the middle of the bank the "
        "anchor is exchanged with that of another flight (swap) or dropped (drop), or it is frozen from the beginning "
        "of the bank on (freeze). An unrelated hue is off by 0.25."
    )
    blocks = [ReportBlock("Experiments in the fog", text, (heads, rows))] if rows else []
    return [*blocks, _others(records, arms)]


def _others(records: Records, arms: Sequence[str]) -> ReportBlock:
    heads = ("", "half forgotten after", "effect lasts for", "keys carry over", *(f"noise in the {w}" for w in WHERE))
    rows = []
    for arm in arms:
        found = [r["interventions"] for r in records.runs[arm].values() if "interventions" in r]
        lifetimes = [f["forgetting"]["lifetime"] for f in found]
        felt, keys = [f["reach"]["chunks"] for f in found], found[0]["reach"]["keys"]
        left = [interval_cell(records.mean(f"injection {where} content", arm, ""), 2) for where in WHERE]
        rows.append((arm, _range(lifetimes), _range(felt), str(keys), *left))
    text = (
        "In chunks, from the lowest to the highest seed. Half forgotten: when streams with the same noise and "
        "different first chunks are half as far apart as at first (the length of the comparison if they never are). "
        "Effect: how long exchanged keys of the window change the stream although the content is the same. Noise: "
        "change of the content at the end over that at first; below 1 it heals."
    )
    return ReportBlock("Forgetting, reach and errors", text, (heads, rows))


WHERE = ("window", "anchor")


def _range(values: Sequence[float]) -> str:
    low, high = min(values), max(values)
    return f"{low:g}" if low == high else f"{low:g} to {high:g}"
