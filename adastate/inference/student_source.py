"""Which student is streamed: that of a run folder, any weights at a size of conf/, or the
bundled one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from adastate.config.command_line import read_command
from adastate.config.conf_files import conf_path
from adastate.config.run_folder import check_student, prompt_world, run_config, student_file
from adastate.config.schema import ConfigError
from adastate.models.size import Size, check_degree
from adastate.weights import BUILTIN

RUN = Path("runs/tiny")
RUN_FILE = Path("distill/config.yaml")
"""By which a folder is known as that of a run."""

SHIPPED = {"tiny": "tiny_student", "flight": "flight_student"}
"""The bundled student of a size, by the name of the size."""


ELSEWHERE = {"--student.weights": "--weights", "--run.seed": "--seed", "--run.dir": "--out"}
"""Keys that a stream does not read, and the options that say the same of it."""

TRAINING = ("--teacher.", "--critic.", "--training.", "--run.iterations", "--run.save_every")
"""How keys begin that a stream does not read."""


@dataclass(frozen=True)
class StudentSource:
    """Where a student comes from.

    Attributes:
        config: of its distillation, as Lightning reads it.
        weights: of any form that docs/reference/weights.md tells of.
        folder: below which its videos go.
        run: whether that is a run folder; else the configuration is that of conf/, the system's stream in it.
    """

    config: Mapping[str, Any]
    weights: Path
    folder: Path
    run: bool

    @property
    def previewed(self) -> list[str]:
        """The prompts of its previews; none where they lie in a file."""
        callbacks = (self.config.get("trainer") or {}).get("callbacks") or []
        told = [(c.get("init_args") or {}).get("prompts") for c in callbacks]
        return next((list(prompts) for prompts in told if isinstance(prompts, (list, tuple))), [])

    def check_degree(self, degree: int) -> None:
        """Refuses a number of processes that cannot share its passes.

        Raises:
            ValueError: with those that can.
        """
        student = self.config["model"]["init_args"]["student"]["init_args"]
        told: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in student["size"].items()}
        size = Size(**told)
        check_degree(degree, size.heads, size.tokens(tuple(student["latent_size"])))

    @property
    def actions(self) -> int:
        """Columns of actions that steer the network; 0: it cannot be steered."""
        return int(self.config["model"]["init_args"]["student"]["init_args"]["size"].get("actions") or 0)

    @property
    def world(self) -> str | None:
        """The built-in world whose words its prompts have; None where they are free."""
        return prompt_world(self.config)


def student_source(
    run: Path | None, weights: Path | None, size: str | None, system: str | None, overrides: Sequence[str]
) -> StudentSource:
    """What the command line asks for.

    Args:
        size: name in conf/sizes, or a file of that form; `overrides` change keys of its configuration.

    Raises:
        ConfigError: a run folder and a size, keys of a run folder, no such size, or no weights for it.
    """
    if run is not None and (size or overrides):
        raise ConfigError(
            f"{size or overrides[0]} and --run {run}: a run folder has its own configuration, "
            f"{run}/distill/config.yaml; leave out --run, or the others"
        )
    finished = (RUN / "student.safetensors").is_file() and (RUN / RUN_FILE).is_file()
    if run is None and finished and not (size or overrides):
        run = RUN
    if run is not None:
        config_of_run = run_config(run, "distill")
        check_student(run, weights)
        return StudentSource(config_of_run, weights or student_file(run), run, True)
    name = _size_name(size or "tiny")
    files = _size_files(name)
    if weights is not None:
        check_student(Path(), weights)
    if weights is None and name in SHIPPED and BUILTIN[SHIPPED[name]].is_file():
        weights = BUILTIN[SHIPPED[name]]
    if weights is None:
        raise ConfigError(
            f"no student of the size {name} is bundled: give --weights FILE, or --run of one that was trained"
        )
    for word in overrides:
        option = next((o for key, o in ELSEWHERE.items() if word.partition("=")[0] == key), "")
        if option or word.startswith(TRAINING):
            remedy = f"give {option}" if option else "a stream is configured by keys such as --stream.past_frames"
            raise ConfigError(f"{word!r} is for training; {remedy}")
    words = [word for file in (*files, "conf/stages/distill.yaml") for word in ("--config", str(file))]
    config, rest = read_command([*words, *(["--system", system] if system else []), *overrides])
    if rest:
        raise ConfigError(f"{rest[0]!r} is for training; a stream is configured by keys such as --stream.past_frames")
    return StudentSource(config.lightning, weights, Path("runs") / Path(name).stem, False)


def _size_name(size: str) -> str:
    """The name of a size of conf/ that was given as its file."""
    path = conf_path(size)
    named = conf_path(Path("conf/sizes") / path.name)
    return path.stem if path.suffix and path.is_file() and named.is_file() and path.samefile(named) else size


def _size_files(name: str) -> list[Path]:
    if name.endswith((".yaml", ".yml")):
        return [Path("conf/base.yaml"), Path(name)]
    known = sorted(path.stem for path in conf_path("conf/sizes").glob("*.yaml"))
    if name not in known:
        raise ConfigError(f"no size {name!r}: known are {', '.join(known)}, or give a .yaml file")
    below = ["wan_1_3b"] if name == "wan_14b" else []  # a larger teacher alone
    return [Path("conf/base.yaml"), *(Path(f"conf/sizes/{part}.yaml") for part in (*below, name))]
