"""Contents of a study's run folders, as tables `[seeds, rollouts]`, and intervals over the means of seeds."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from adastate import metrics
from adastate.metrics import Interval, MemoryFigures, Moments, Passages
from adastate.runtime import plain_data
from adastate.study.attention_by_place import AttentionShares
from adastate.study.measures import MADE, MEASURES, PARTS
from adastate.study.study_files import unmeasured

REAL = "real flights"


@dataclass(frozen=True)
class Measured:
    """One measured run.

    Attributes:
        folder: of the run.
        arrays: of `measures.npz`.
        told: `measures.json`.
    """

    folder: Path
    arrays: Mapping[str, np.ndarray]
    told: Mapping[str, Any]

    @classmethod
    def read(cls, folder: Path) -> Measured | None:
        """None if the folder has no complete measurement."""
        if not (folder / "measures.json").is_file() or not (folder / "measures.npz").is_file():
            return None
        arrays = plain_data.load_npz(folder / "measures.npz")
        arrays.pop("allow_pickle", None)
        return cls(folder, arrays, json.loads((folder / "measures.json").read_text(encoding="utf-8")))

    @property
    def attention(self) -> list[AttentionShares]:
        return [
            AttentionShares(a["past_frames"], tuple(a["places"]), np.array(a["shares"], dtype=float))
            for a in self.told.get("attention", [])
        ]

    @property
    def trained_attention(self) -> AttentionShares | None:
        """Attention with the window that the run was trained with."""
        return next((a for a in self.attention if a.past_frames == self.told.get("trained_window")), None)


@dataclass(frozen=True)
class Results:
    """All measured runs of a study.

    Attributes:
        real: the true flights, measured in the same way.
        arms: by name, then by seed.
    """

    root: Path
    real: Measured
    arms: Mapping[str, Mapping[int, Measured]]

    @classmethod
    def read(cls, root: Path, names: Sequence[str]) -> Results:
        """Reads the runs of a study, except those measured with another protocol than the real flights."""
        real = Measured.read(root / "real")
        if real is None:
            raise unmeasured(root)
        arms: dict[str, dict[int, Measured]] = {}
        for name in names:
            folders = sorted((root / "arms" / name).glob("seed*"), key=lambda f: int(f.name.removeprefix("seed")))
            found = {int(f.name.removeprefix("seed")): m for f in folders if (m := Measured.read(f)) is not None}
            same = {s: m for s, m in found.items() if _protocol(m) == _protocol(real)}
            if same:
                arms[name] = same
        return cls(root, real, arms)

    @property
    def world(self) -> str:
        return str(self.real.told["world"])

    @property
    def horizons(self) -> list[int]:
        return list(self.real.told["horizons"])

    @property
    def rollouts(self) -> int:
        return int(self.real.told["rollouts"])

    @property
    def names(self) -> list[str]:
        """Names of the curves."""
        return [k.removeprefix("curve/") for k in self.real.arrays if k.startswith("curve/")]

    @property
    def measures(self) -> list[str]:
        """The entries of MEASURES that this study has."""
        return [m for m in MEASURES if set(MADE.get(m, (m,))) <= set(self.names)]

    def seeds(self, *arms: str) -> list[int]:
        """Seeds that all of these arms have."""
        sets = [set(self.arms.get(arm, {})) for arm in arms]
        return sorted(set.intersection(*sets)) if sets else []

    def curve(self, measure: str, arm: str, seeds: Sequence[int] | None = None) -> Tensor:
        """`[S, P, n]`; the real flights count as one seed."""
        if measure == "from_start":
            hues = self.curve("ground_hue", arm, seeds)
            away = metrics.apart(hues, hues[..., :1])
            away[..., 0] = torch.nan  # distance from itself
            return away
        key = f"curve/{measure}"
        if arm == REAL:
            return torch.from_numpy(self.real.arrays[key])[None].double()
        runs = self.arms[arm]
        return torch.stack([torch.from_numpy(runs[s].arrays[key]) for s in seeds or self.seeds(arm)]).double()

    def values(self, measure: str, arm: str, at: int, seeds: Sequence[int] | None = None) -> Tensor:
        """`[S, P]` in horizon `at`, counted from 1."""
        if measure == "composite":
            parts = {name: self.values(name, arm, at, seeds) for name in PARTS}
            real = {name: self.values(name, REAL, at).nanmean() for name in PARTS}
            return metrics.composite(parts, real)
        return self.curve(measure, arm, seeds)[..., at - 1]

    # ---- the distance from real flights, a property of a set of rollouts: those of one seed

    @cached_property
    def _reference(self) -> tuple[Moments, Tensor]:
        reference = Moments(torch.from_numpy(self.real.arrays["reference"]))
        return reference, reference.covariance.diagonal().clamp_min(1e-12).sqrt()

    def frechet(self, arm: str, at: int, seeds: Sequence[int] | None = None) -> Tensor:
        """log(1 + distance) of each seed's rollouts in horizon `at`, `[S]`.

        The logarithm turns a margin into a fraction of the distance; the 1 makes differences near that of real flights
        negligible. Sets of equal size have the same upward bias, so seeds can be compared with each other.
        """
        runs = [self.real] if arm == REAL else [self.arms[arm][s] for s in seeds or self.seeds(arm)]
        sums = torch.stack([torch.from_numpy(run.arrays["moments"][:, at - 1]).sum(0) for run in runs])
        reference, scale = self._reference
        return metrics.frechet(Moments(sums), reference, scale).log1p()

    # ---- means of seeds, and intervals over them

    def seed_means(self, measure: str, arm: str, at: int, seeds: Sequence[int] | None = None) -> Tensor:
        """`[S]` in horizon `at`."""
        if measure == "frechet":
            return self.frechet(arm, at, seeds)
        return self.values(measure, arm, at, seeds).nanmean(1)

    def mean(self, measure: str, arm: str, at: int) -> Interval:
        """Mean of an arm in horizon `at`, over its seeds."""
        return metrics.seed_interval(self.seed_means(measure, arm, at))

    def between(self, measure: str, a: str, b: str, at: int) -> Interval:
        """a - b in horizon `at`, paired by seed, over the seeds that both have."""
        seeds = self.seeds(a, b)
        return metrics.seed_interval(self.seed_means(measure, a, at, seeds) - self.seed_means(measure, b, at, seeds))

    def overall(self, measure: str, arm: str, other: str = "") -> Interval:
        """Mean of an arm over all horizons, or of its paired difference from another; for rare events."""
        seeds = self.seeds(arm, other) if other else None
        means = self.curve(measure, arm, seeds).nanmean(-1).nanmean(1)
        if other:
            means = means - self.curve(measure, other, seeds).nanmean(-1).nanmean(1)
        return metrics.seed_interval(means)

    def memory(self, arm: str, first: int, last: int) -> list[MemoryFigures]:
        """Memory figures of each seed, over the passages that end in horizons `first` to `last`, counted from 1."""
        once = int(self.real.told["pictures"])
        runs = [self.real] if arm == REAL else [self.arms[arm][s] for s in self.seeds(arm)]
        found = []
        for run in runs:
            parts = {n: torch.from_numpy(run.arrays[f"passages/{n}"]) for n in ("change", "due", "row", "at")}
            found.append(metrics.memory(Passages(**parts).between((first - 1) * once, last * once)))
        return found

    def variety(self, hue: str, arm: str, at: int) -> float:
        """Spread of the rollouts' hues in horizon `at`: 1 minus the length of the mean of their directions, averaged
        over seeds. 0 if all are the same, about 1 if they are spread evenly."""
        angle = 2 * torch.pi * self.values(hue, arm, at)
        length = (angle.cos().nanmean(1).square() + angle.sin().nanmean(1).square()).sqrt()
        return float((1 - length).mean())

    def excess(self, arm: str, seeds: Sequence[int] | None = None) -> Tensor:
        """Attention to the anchor divided by its share of the visible frames, `[S]`."""
        runs = [self.arms[arm][s].trained_attention for s in seeds or self.seeds(arm)]
        return torch.tensor([a.excess("anchor") if a is not None else float("nan") for a in runs], dtype=torch.float64)


def _protocol(measured: Measured) -> tuple[Any, ...]:
    told = measured.told
    return tuple(
        str(told.get(key))
        for key in ("world", "rollouts", "horizons", "pictures", "measures", "features")  # prompts differ by seed
    )
