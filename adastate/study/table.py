"""conf/study/arms.yaml: the arms of the study, their groups, and the size of each budget."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import MISSING, asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from adastate.config.conf_files import conf_path
from adastate.config.schema import ConfigError
from adastate.config.systems import read_system
from adastate.runtime import plain_yaml
from adastate.runtime.spelling import meant
from adastate.stream import StreamSpec

ARM_KEYS = ("about", "stream", "model", "against", "system", "taught", "recipes", "student", "experiments")
ALWAYS = ("chunk_frames", "past_frames", "anchor", "state_frames", "position")
"""Fields of a system's stream that are written even if they equal the default."""


def folder() -> Path:
    return conf_path("conf/study")


@dataclass(frozen=True)
class Arm:
    """A student with one choice changed.

    Attributes:
        stream: the study's stream with the arm's changes, as in a config file.
        model: arguments of the distillation that the arm changes.
        against: the arms that it is compared with; empty for the reference arm of its group.
        spec: the complete stream.
        taught: the stream of its training if that differs, as in some published systems.
        recipes: further files of conf/ that are added to its distillation.
        student: the arm whose student it streams with, as in some published systems; then nothing is trained.
        rope_max_frames: time positions that its stream needs; 0 if any network has enough.
        experiments: whether experiments on its memory are run (`adastate study intervene`).
    """

    name: str
    about: str
    spec: StreamSpec
    stream: Mapping[str, Any] = field(default_factory=dict, hash=False)
    model: Mapping[str, Any] = field(default_factory=dict, hash=False)
    against: tuple[str, ...] = ()
    taught: Mapping[str, Any] = field(default_factory=dict, hash=False)
    recipes: tuple[str, ...] = ()
    student: str = ""
    rope_max_frames: int = 0
    experiments: bool = False


@dataclass(frozen=True)
class Budget:
    """Size of a study.

    Attributes:
        iterations: of each distillation.
        ar_steps, init_steps: of the two stages of the initialisation.
        codec_steps, teacher_steps: of the stages before the initialisation, if any.
        teacher_clips: training clips of the teacher.
        trajectories: of the teacher, and of the causal network, for the initialisation.
        rollouts: number that is measured of each run.
        horizons: horizons that are reported, ascending; the last is the length of the rollouts, in training horizons.
        groups: seeds of each group.
        arms: only these; empty for all.
        suffix: of the study's folder; budgets that differ only in their groups share one.
    """

    iterations: int
    ar_steps: int
    init_steps: int
    codec_steps: int
    teacher_steps: int
    teacher_clips: int
    trajectories: int
    rollouts: int
    horizons: tuple[int, ...]
    groups: Mapping[str, int]
    arms: tuple[str, ...] = ()
    suffix: str = ""


@dataclass(frozen=True)
class Beginning:
    """An initialisation: the weights that the runs of one seed and one chunk size start from."""

    chunk_frames: int
    seed: int

    def __str__(self) -> str:
        return f"initialisation for chunks of {self.chunk_frames}, seed {self.seed}"

    def folder(self, root: Path) -> Path:
        return root / "base" / f"chunks_of_{self.chunk_frames}" / f"seed{self.seed}"


@dataclass(frozen=True)
class Task:
    """A run: an arm and a seed."""

    arm: Arm
    seed: int

    @property
    def beginning(self) -> Beginning:
        return Beginning(self.arm.spec.chunk_frames, self.seed)

    def __str__(self) -> str:
        return f"{self.arm.name}, seed {self.seed}"

    def folder(self, root: Path) -> Path:
        return root / "arms" / self.arm.name / f"seed{self.seed}"


@dataclass(frozen=True)
class Group:
    """Arms that belong together, and the arm that they are compared with."""

    arms: tuple[str, ...]
    against: str


@dataclass(frozen=True)
class Table:
    stream: Mapping[str, Any]
    arms: Mapping[str, Arm]
    groups: Mapping[str, Group]
    budgets: Mapping[str, Budget]

    def tasks(self, budget: Budget, only: Sequence[str] = ()) -> list[Task]:
        """The runs of a budget, most informative first: all seeds of the budget's first group, seed 0 of every arm
        before seed 1 of any; then seed 0 of the other groups, one group after another, then seed 1. A run that uses
        another arm's student comes after that arm's run."""
        for name in only:
            _known(name, self.groups, "group")
        seeds = {g: n for g, n in budget.groups.items() if not only or g in only}
        first = next(iter(budget.groups), "")
        turns = [(first, seed) for seed in range(seeds.get(first, 0))]
        rest = [g for g in self.groups if g != first and g in seeds]
        turns += [(g, seed) for seed in range(max(seeds.values(), default=0)) for g in rest if seed < seeds[g]]
        named = [(name, seed) for group, seed in turns for name in self.groups[group].arms]
        lent = [(one, seed) for name, seed in named for one in (self.arms[name].student, name) if one]
        wanted = dict.fromkeys(t for t in lent if not budget.arms or t[0] in budget.arms)
        return [Task(self.arms[name], seed) for name, seed in wanted]

    def pairs(self, group: str) -> list[tuple[str, str]]:
        """(arm, arm that it is compared with) for the arms of a group."""
        told = self.groups[group]
        return [(a, b) for a in told.arms for b in self.arms[a].against or (told.against,) if a != b]


def read_table(path: Path | None = None) -> Table:
    """Reads and checks a table.

    Raises:
        ConfigError: with the wrong name and the nearest correct one.
    """
    path = path or folder() / "arms.yaml"
    if not path.is_file():
        raise ConfigError(f"no table of arms at {path}: run from the repository, or give --table")
    content = plain_yaml.load_yaml(path.read_text(encoding="utf-8")) or {}
    for part in ("stream", "budgets", "groups", "arms"):
        if part not in content:
            raise ConfigError(f"{path} has no {part!r}; it needs stream, budgets, groups and arms")
    arms = {name: _arm(name, entry or {}, content["stream"], path) for name, entry in content["arms"].items()}
    groups = {name: Group(tuple(entry["arms"]), entry["against"]) for name, entry in content["groups"].items()}
    for group in groups.values():
        for name in (*group.arms, group.against):
            _known(name, arms, "arm")
    for arm in arms.values():
        for name in (*arm.against, *([arm.student] if arm.student else [])):
            _known(name, arms, "arm")
    budgets = {name: _budget(name, entry, groups, arms, path) for name, entry in content["budgets"].items()}
    return Table(content["stream"], arms, groups, budgets)


def _arm(name: str, entry: dict[str, Any], base: dict[str, Any], path: Path) -> Arm:
    for key in entry:
        _known(key, ARM_KEYS, f"key of arm {name!r}")
    stream, rows = dict(entry.get("stream", {})), 0
    if "system" in entry:
        system = read_system(entry["system"], int(stream.get("chunk_frames", base["chunk_frames"])))
        rows, base, stream = system.rope_max_frames, {}, {**_plain(system.spec), **stream}
    for key in stream:
        _known(key, [f.name for f in fields(StreamSpec)], f"stream choice of arm {name!r}")
    try:
        spec = StreamSpec.of({**base, **stream})
    except ValueError as error:
        raise ConfigError(f"{path}, arm {name}: {error}") from error
    against = entry.get("against", ())
    told = (against,) if isinstance(against, str) else tuple(against)
    taught = {**base, **stream, **entry["taught"]} if "taught" in entry else {}
    try:
        StreamSpec.of(taught)
    except ValueError as error:
        raise ConfigError(f"{path}, arm {name}, its training: {error}") from error
    recipes = tuple(entry.get("recipes", ()))
    for recipe in recipes:
        if not conf_path(f"conf/{recipe}").is_file():
            raise ConfigError(f"{path}, arm {name}: there is no recipe conf/{recipe}")
    return Arm(
        name, entry.get("about", ""), spec, {**base, **stream}, entry.get("model", {}), told, taught, recipes,
        entry.get("student", ""), rows, bool(entry.get("experiments", False)),
    )  # fmt: skip


def _plain(spec: StreamSpec) -> dict[str, Any]:
    """A stream's choices as in a config file, without those that equal the default."""
    default = asdict(StreamSpec())
    told = {name: value for name, value in asdict(spec).items() if value != default[name] or name in ALWAYS}
    return {name: list(value) if isinstance(value, tuple) else value for name, value in told.items()}


def _budget(name: str, entry: dict[str, Any], groups: Mapping[str, Any], arms: Mapping[str, Any], path: Path) -> Budget:
    for key in entry:
        _known(key, [f.name for f in fields(Budget)], f"key of budget {name!r}")
    missing = [f.name for f in fields(Budget) if f.default is MISSING and f.name not in entry]
    if missing:
        raise ConfigError(f"{path}, budget {name}: {', '.join(missing)} missing")
    for group in entry["groups"]:
        _known(group, groups, "group")
    for arm in entry.get("arms", ()):
        _known(arm, arms, "arm")
    horizons = tuple(entry["horizons"])
    if list(horizons) != sorted(set(horizons)) or not horizons or horizons[0] < 1:
        raise ConfigError(f"{path}, budget {name}: horizons {list(horizons)} must ascend from 1 or more")
    return Budget(**{**entry, "horizons": horizons, "arms": tuple(entry.get("arms", ()))})


def _known(name: str, known: Any, what: str) -> None:
    if name not in known:
        raise ConfigError(f"no {what} {name!r}; {meant(name, known)}")
