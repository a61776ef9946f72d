"""Combines the trials of a run: its phases at full depth, what the host waits for, and what is wrong."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from adastate.rehearsal.accelerators import ACCELERATORS, LAUNCH, USABLE, Accelerator
from adastate.rehearsal.fit_trial import Trial
from adastate.rehearsal.recorder import BETWEEN
from adastate.rehearsal.shallow import drawn_on, drawn_on_peak, per_layer
from adastate.rehearsal.training_phases import ALL_PROMPTS, ONCE, PREVIEW, PREVIEW_DECODE

OUTSIDE = ("start", "build", "set-up", BETWEEN, "end")
"""Phases in which nothing is trained, and which happen once."""

BESIDE = ("warm-up", PREVIEW, PREVIEW_DECODE)
"""Phases whose seconds do not count as those of an iteration or a chunk."""

KINDS = ("product", "attention", "other", "communication")
SPARED = ("prompts", "decode")
"""Suffixes of phases that process prompts or decode pictures, row by row."""

OFTEN = 4
"""Waits per line and phase from which on the line counts as inside a loop over passes."""

MUCH = 0.05
"""Share of a phase's FLOP in float32 from which on they are reported: they take 15 times as long."""

LEAK = 2**20


@dataclass(frozen=True)
class PhaseCost:
    """A phase of an iteration at full depth.

    Attributes:
        peak: maximum bytes in use on the rank.
        kernels, flop, moved, sent: of all micro batches of the iteration, by kind of operation where relevant.
        seconds: on each known device: estimate, never measured.
        bound: what takes most of the time on the device of the run.
    """

    name: str
    peak: float
    kernels: float
    flop: dict[str, float]
    moved: dict[str, float]
    sent: float
    seconds: dict[str, float]
    bound: str


@dataclass(frozen=True)
class HostEvent:
    """A wait for the device, or a copy to it: its count per iteration and per occurrence of its phase."""

    phase: str
    what: str
    line: str
    times: float
    each_layer: bool
    bytes: float = 0.0
    each_time: float = 0.0


@dataclass
class RehearsalVerdict:
    """Result of a rehearsal; see `adastate.rehearsal.rehearsal_report`."""

    stage: str
    device: Accelerator
    ranks: int
    rank: int
    parts: int
    depths: list[int]
    full_depth: bool = False
    phases: list[PhaseCost] = field(default_factory=list)
    waits: list[HostEvent] = field(default_factory=list)
    copies: list[HostEvent] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    host: float = 0.0
    checkpoint: float = 0.0

    @property
    def peak(self) -> PhaseCost | None:
        return max(self.phases, key=lambda phase: phase.peak, default=None)

    @property
    def unit(self) -> str:
        """The unit that the numbers refer to."""
        return "chunk" if self.stage in ("stream", "live") else "iteration that trains all networks"

    def seconds(self, device: str) -> float:
        """Seconds per unit."""
        return sum(phase.seconds[device] for phase in self.phases if phase.name not in BESIDE)


def fill_verdict(
    verdict: RehearsalVerdict, trials: Sequence[Trial], runs: list[dict[int, int]], name: str, gpus: int
) -> RehearsalVerdict:
    """Fills in the verdict.

    Args:
        runs: the depths of each trial.
        name: of the device, as in ACCELERATORS.
        gpus: per machine.
    """
    verdict.errors += dict.fromkeys(trial.failed for trial in trials if trial.failed)
    verdict.errors += dict.fromkeys(said for trial in trials for said in trial.record.mistakes.values())
    if any(trial.failed for trial in trials):
        return verdict
    full = _Full(trials, [] if verdict.full_depth else verdict.depths, runs)
    first = trials[0]
    verdict.phases = [full.phase(phase, name) for phase in first.record.memory.peaks if phase not in OUTSIDE]
    verdict.waits, verdict.copies = full.waits(), full.copies()
    verdict.host = gpus * full.of(lambda trial: trial.host)
    verdict.checkpoint = full.of(lambda trial: trial.checkpoint)
    verdict.errors += (
        _memory(verdict, first) + _waiting(verdict, first.record.engines) + full.wide_layers() + full.single_layers()
    )
    if all(trial.grown > LEAK for trial in trials):
        grown = full.of(lambda trial: trial.grown)
        verdict.errors.append(
            f"memory on the device grows by {grown / 2**20:.0f} MiB per iteration: something keeps tensors of each"
        )
    return verdict


class _Full:
    """Quantities of trials at few layers, extrapolated to all layers and all micro batches."""

    def __init__(self, trials: Sequence[Trial], depths: list[int], runs: list[dict[int, int]]) -> None:
        self.trials, self.depths, self.runs = trials, depths, runs

    def of(self, value: Any) -> float:
        return drawn_on([float(value(trial)) for trial in self.trials], self.depths, self.runs)

    def times(self, phase: str) -> float:
        first = self.trials[0]
        return 1.0 if phase.endswith(ONCE) else first.parts / max(1, first.ran)

    def host_times(self, phase: str) -> float:
        """Like `times`, for transfers between host and device."""
        return 1.0 if phase == ALL_PROMPTS else self.times(phase)

    def peak(self, phase: str) -> float:
        memory = [trial.record.memory for trial in self.trials]
        return drawn_on_peak([(one.peaks[phase], one.moments[phase]) for one in memory], self.depths, self.runs)

    def phase(self, phase: str, name: str) -> PhaseCost:
        times = self.times(phase)

        def work(value: Any) -> float:
            return times * self.of(lambda trial: value(trial.record.work[phase]))

        kernels = work(lambda w: w.kernels)
        by_kind = {
            device: {kind: work(lambda w, d=about, k=kind: w.seconds(d)[k]) for kind in KINDS}
            for device, about in ACCELERATORS.items()
        }
        launching = kernels * LAUNCH
        seconds = {device: max(sum(kinds.values()), launching) for device, kinds in by_kind.items()}
        mine = by_kind[name]
        bound = "launches" if launching > sum(mine.values()) else max(mine, key=lambda kind: mine[kind])
        return PhaseCost(
            phase,
            peak=self.peak(phase),
            kernels=kernels,
            flop={kind: work(lambda w, k=kind: w.flop[k]) for kind in KINDS[:3]},
            moved={kind: work(lambda w, k=kind: w.moved[k]) for kind in KINDS[:3]},
            sent=work(lambda w: w.sent),
            seconds=seconds,
            bound=bound,
        )

    def _each_layer(self, counts: list[float]) -> bool:
        return per_layer(counts, self.runs) > 0

    def waits(self) -> list[HostEvent]:
        found = []
        for key in dict.fromkeys(key for trial in self.trials for key in trial.record.waits):
            if key[0] in OUTSIDE and not (key[0] == BETWEEN and key[2]):
                continue
            counts = [float(trial.record.waits[key]) for trial in self.trials]
            times = self.host_times(key[0]) * drawn_on(counts, self.depths, self.runs)
            each = counts[0] / max(1, self.trials[0].record.entries[key[0]])
            found.append(HostEvent(*key, times, self._each_layer(counts), each_time=each))
        return found

    def copies(self) -> list[HostEvent]:
        found = []
        for key in dict.fromkeys(key for trial in self.trials for key in trial.record.copies):
            counts = [float(trial.record.copies[key]) for trial in self.trials]
            if key[0] in OUTSIDE or not any(counts):
                continue
            sizes = [float(trial.record.copied[key]) for trial in self.trials]
            times = self.host_times(key[0]) * drawn_on(counts, self.depths, self.runs)
            size = self.host_times(key[0]) * drawn_on(sizes, self.depths, self.runs)
            each = counts[0] / max(1, self.trials[0].record.entries[key[0]])
            layered = self._each_layer(counts)
            found.append(HostEvent(key[0], "a copy to the device", key[1], times, layered, size, each))
        return found

    def wide_layers(self) -> list[str]:
        found = []
        for key in dict.fromkeys(key for trial in self.trials for key in trial.record.wide):
            if self._each_layer([float(trial.record.wide[key]) for trial in self.trials]):
                found.append(f"{key[2]}: {key[1]} in float64 in every layer ({key[0]}): use float32 or less")
        return found

    def single_layers(self) -> list[str]:
        """Float32 products in every layer of a phase that otherwise computes in half precision."""
        found = []
        for key in dict.fromkeys(key for trial in self.trials for key in trial.record.single):
            counts = [float(trial.record.single[key]) for trial in self.trials]
            work = self.trials[0].record.work[key[0]]
            of_all = sum(one.flop * times for one, times in work.operations.items())
            half = sum(one.flop * times for one, times in work.operations.items() if one.dtype.itemsize <= 2)
            if half > of_all / 2 and counts[0] > MUCH * of_all and self._each_layer(counts):
                found.append(
                    f"{key[1]}: products in float32 in every layer, {100 * counts[0] / of_all:.0f}% of the FLOP of "
                    f"{key[0]}, which computes in half precision: cast their inputs"
                )
        return found


def _memory(verdict: RehearsalVerdict, first: Trial) -> list[str]:
    worst, total = verdict.peak, verdict.device.memory_gib * 2**30
    if worst is None or worst.peak <= USABLE * total:
        return []
    size, line = first.record.memory.largest.get(worst.name, (0, ""))
    largest = f", the largest piece {size / 2**30:.1f} GiB at {line}" if line else ""
    remedy = "`adastate plan` names the fewest changes with which it fits"
    if worst.name in (PREVIEW, PREVIEW_DECODE):
        remedy = "give fewer prompts in `preview.prompts`, or switch previews off with `--preview.every=0`"
    return [
        f"{worst.name} holds {worst.peak / 2**30:.1f} GiB per rank, but {verdict.device.name} has "
        f"{verdict.device.memory_gib:.0f} of which {USABLE * verdict.device.memory_gib:.0f} are usable{largest}: "
        f"{remedy}"
    ]


def _waiting(verdict: RehearsalVerdict, engines: set[tuple[str, str]]) -> list[str]:
    """Waits and copies in every layer, or in a loop over passes; those of an engine itself are only listed."""
    found = []
    for event in (*verdict.waits, *verdict.copies):
        if (event.phase, event.line) in engines:
            continue
        if event.each_layer and not event.phase.endswith("prompts"):
            found.append(f"{event.line}: {event.what} in every layer, {event.times:.0f} times ({event.phase})")
        elif event.each_time >= OFTEN and not event.phase.endswith((*ONCE, *SPARED)):
            found.append(f"{event.line}: {event.what} {event.each_time:.0f} times in each {event.phase}")
    return found
