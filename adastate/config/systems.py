"""The compared systems, conf/systems/*.yaml, each a stream on whichever weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from adastate.config.compose import compose
from adastate.config.conf_files import conf_path
from adastate.config.schema import ConfigError
from adastate.runtime.spelling import meant
from adastate.stream import StreamSpec

TRAINED = "as trained"
"""Among systems to compare, the stream that the weights were trained with."""


@dataclass(frozen=True)
class System:
    """A system as a stream.

    Attributes:
        description: the comment at the head of its file, as one text.
        rope_max_frames: time positions that its stream needs; 0 if any network has enough.
    """

    name: str
    description: str
    spec: StreamSpec
    rope_max_frames: int = 0


def system_names() -> list[str]:
    return sorted(path.stem for path in conf_path("conf/systems").glob("*.yaml"))


def read_system(name_or_path: str | Path, chunk_frames: int) -> System:
    """A system by its name in conf/systems, or by the path of a .yaml file, for chunks of `chunk_frames` frames."""
    path = _file(str(name_or_path))
    variables = compose([path]).variables
    if not variables.get("stream"):
        raise ConfigError(f"{path} has no stream block, so it describes no system")
    comment = []
    for line in path.read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            break
        comment.append(line.lstrip("#").strip())
    try:
        spec = StreamSpec.of(variables["stream"]).rescaled(chunk_frames)
    except ValueError as error:
        raise ConfigError(f"{path} with chunks of {chunk_frames}: {error}") from error
    rows = (variables.get("size") or {}).get("rope_max_frames", 0)
    return System(path.stem, " ".join(comment), spec, rows)


def check_systems(names_or_paths: Sequence[str], others: Sequence[str] = ()) -> None:
    """Refuses systems that are not there, in conf/systems or as files; `others` are names that may stand beside them.

    Raises:
        ConfigError: with the nearest that is.
    """
    for i, name in enumerate(names_or_paths):
        if name in names_or_paths[:i]:
            raise ConfigError(f"{name} is named twice: leave one of them out")
        if "," in name and set(name.split(",")) <= {*others, *system_names()}:
            raise ConfigError(f"{name!r} has commas: put blanks between the names of systems")
        if whole := next((other for other in others if name in other.split()), ""):
            raise ConfigError(f'{name!r} is a part of a name: put quotes around it, "{whole}"')
        if name not in others and not compose([_file(name, others)]).variables.get("stream"):
            raise ConfigError(f"{name} has no stream block, so it describes no system")


def _file(name: str, others: Sequence[str] = ()) -> Path:
    if Path(name).suffix in (".yaml", ".yml"):
        return conf_path(name)  # compose says what is wrong with it
    if name in system_names():
        return conf_path("conf/systems") / f"{name}.yaml"
    if name == TRAINED:
        raise ConfigError(f"{name!r} is what a stream is without --system: leave that out")
    raise ConfigError(f"no system {name!r}; {meant(name.lower(), [*others, *system_names()])}")
