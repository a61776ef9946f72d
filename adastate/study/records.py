"""Results of a study as one small JSON file per run: these are committed, and verdicts are computed from them.

A record holds the mean of every measure over its seed's rollouts in every horizon, the memory figures of its passages,
and its experiments if there were any. The run folders, a hundred times as large, are no longer needed.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from adastate import metrics
from adastate.config.schema import ConfigError
from adastate.metrics import Interval, MemoryFigures
from adastate.runtime import atomic
from adastate.study.plain_numbers import six_digits
from adastate.study.results import REAL, Results
from adastate.study.study_files import read_study_records
from adastate.study.table import Table, Task

MEMORY = ("memory_slope", "memory_error", "memory_hold", "memory_mean", "memory_relative")
"""Measures of passages, over a stretch of horizons such as `2x-6x`."""

DEEDS = ("nothing", "swap", "drop", "freeze")
"""Prefixes of the measures of a bank of fog: `swap donor_error`, at `9 hidden`."""


def records_folder(root: Path, world: str, out: Path | None = None) -> Path:
    """The records folder of a study: in its own folder, or in `out`, which contains those of several worlds."""
    return root / "records" if out is None else out / world


def write_records(
    root: Path,
    table: Table,
    out: Path | None = None,
    only: Task | None = None,
    made_from: Callable[[Task], dict[str, str]] | None = None,
) -> Path:
    """Writes one file per measured run, or for one of them, and one for the true flights; returns their folder.

    Args:
        made_from: returns the entries of a run's record about its inputs, see `adastate.study.made_from`.
    """
    results = Results.read(root, list(table.arms))
    folder = records_folder(root, results.world, out)
    for arm, runs in results.arms.items():
        for seed in runs:
            if only is None or (only.arm.name, only.seed) == (arm, seed):
                told = record_of(results, arm, seed)
                if made_from is not None:
                    told["made_from"] = made_from(Task(table.arms[arm], seed))
                atomic.write_json(folder / f"{arm}-seed{seed}.json", told)
    real: dict[str, Any] = {"arm": REAL, "seed": 0, **_common(results, REAL, 0)}
    gate = root / "base" / "gate.json"
    if gate.is_file():
        real["gate"] = json.loads(gate.read_text(encoding="utf-8"))
    atomic.write_json(folder / "real.json", six_digits(real))
    return folder


def record_of(results: Results, arm: str, seed: int) -> dict[str, Any]:
    run = results.arms[arm][seed]
    told: dict[str, Any] = {"arm": arm, "seed": seed, **_common(results, arm, seed)}
    if run.trained_attention is not None:
        told["anchor_excess"] = run.trained_attention.excess("anchor")
    experiments = run.folder / "interventions.json"
    if experiments.is_file():
        told["interventions"] = json.loads(experiments.read_text(encoding="utf-8"))
    found: dict[str, Any] = six_digits(told)
    return found


def horizon_stretches(horizons: Sequence[int]) -> dict[str, tuple[int, int]]:
    """Names of stretches with their first and last horizon: the first alone, and all later ones up to the last."""
    last = horizons[-1]
    return {"1x": (1, 1)} if last == 1 else {"1x": (1, 1), f"2x-{last}x": (2, last)}


def _common(results: Results, arm: str, seed: int) -> dict[str, Any]:
    seeds = None if arm == REAL else [seed]
    every = range(1, results.horizons[-1] + 1)
    means = {m: [float(results.seed_means(m, arm, at, seeds)[0]) for at in every] for m in results.measures}
    memory = {}
    if "passages/due" in results.real.arrays:
        number = 0 if arm == REAL else results.seeds(arm).index(seed)
        for name, (first, last) in horizon_stretches(results.horizons).items():
            found: MemoryFigures = results.memory(arm, first, last)[number]
            memory[name] = {**asdict(found), "relative": found.relative}
    real = results.real.told
    protocol = {k: real[k] for k in ("world", "rollouts", "horizons", "pictures", "measures", "features")}
    return {"protocol": protocol, "means": means, "memory": memory}


@dataclass(frozen=True)
class Records:
    """The records of one world, by arm and seed."""

    world: str
    runs: Mapping[str, Mapping[int, Mapping[str, Any]]]
    real: Mapping[str, Any]

    @classmethod
    def read(cls, folder: Path) -> Records:
        """
        Raises:
            ConfigError: there are none, or they come from several protocols.
        """
        told = read_study_records(folder)
        protocols = {json.dumps(t["protocol"], sort_keys=True) for t in told}
        if len(protocols) > 1:
            raise ConfigError(f"the records in {folder} were measured by {len(protocols)} protocols: keep those of one")
        runs: dict[str, dict[int, Any]] = {}
        for t in told:
            if t["arm"] != REAL:
                runs.setdefault(t["arm"], {})[int(t["seed"])] = t
        real: Mapping[str, Any] = next((t for t in told if t["arm"] == REAL), {})
        return cls(str(told[0]["protocol"]["world"]), runs, real)

    def seeds(self, *arms: str) -> list[int]:
        """Seeds that all of these arms have."""
        sets = [set(self.runs.get(arm, {})) for arm in arms]
        return sorted(set.intersection(*sets)) if sets else []

    def values(self, measure: str, arm: str, at: str, seeds: Sequence[int]) -> Tensor:
        """`[S]`; nan if a run does not have it."""
        return torch.tensor([_value(self.runs[arm][s], measure, at) for s in seeds], dtype=torch.float64)

    def mean(self, measure: str, arm: str, at: str, tests: int = 1) -> Interval:
        return metrics.seed_interval(self.values(measure, arm, at, self.seeds(arm)), tests=tests)

    def difference(self, one: tuple[str, str, str], other: tuple[str, str, str]) -> tuple[list[int], Tensor]:
        """Differences of two (measure, arm, at), paired by seed: the seeds that have both, and the differences."""
        seeds = self.seeds(one[1], other[1])
        d = self.values(*one, seeds) - self.values(*other, seeds)
        return [s for s, known in zip(seeds, (~d.isnan()).tolist(), strict=True) if known], d[~d.isnan()]


def _value(record: Mapping[str, Any], measure: str, at: str) -> float:
    found: Any
    if measure == "anchor_excess":
        found = record.get(measure)
    elif measure in MEMORY:
        found = record["memory"].get(at, {}).get(measure.removeprefix("memory_"))
    elif measure.split()[0] in DEEDS:
        deed, name = measure.split()
        rows = record.get("interventions", {}).get("occlusions", [])
        found = next((r[name] for r in rows if (r["deed"], f"{r['hidden']} hidden") == (deed, at)), None)
    elif measure.split()[0] == "injection":
        _, where, what = measure.split()
        errors = record.get("interventions", {}).get("injection", {}).get(where, {}).get(what)
        found = None if not errors or None in (errors[0], errors[-1]) or not errors[0] else errors[-1] / errors[0]
    else:
        first, _, last = at.partition("-")
        curve = record["means"].get(measure, [])[int(first[:-1]) - 1 : int((last or first)[:-1])]
        known = [x for x in curve if x is not None]
        found = sum(known) / len(known) if known else None
    return math.nan if found is None else float(found)
