"""The configurations of a run folder: what its stages were trained with."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from adastate.config import environment
from adastate.config.schema import ConfigError
from adastate.config.trusted import check_trusted
from adastate.runtime import file_kind, plain_yaml, run_paths
from adastate.runtime.missing import hub_name, to_come_by
from adastate.weights.builtin import BUILTIN, MODEL, STUDENT
from datamodules.worlds.kinds import WORLDS


def run_config(run: Path, stage: str) -> dict[str, Any]:
    """The resolved configuration with which a stage of a run was trained.

    Raises:
        ConfigError: there is none, or it names classes that are not trusted (`check_trusted`).
    """
    path = run / stage / "config.yaml"
    if not path.is_file():
        named = "" if run.exists() else hub_name(run)
        pull = f", or the one that `adastate weights pull {named} FOLDER` brings" if named else ""
        raise ConfigError(
            f"{run} is not a run folder: it has no {stage}/config.yaml; give the folder that `make train` wrote{pull}"
        )
    try:
        config = {
            "trainer": {},
            **environment.with_set_variables(plain_yaml.load_yaml(path.read_text(encoding="utf-8"))),
        }
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not UTF-8 text (byte {error.start}): save it as UTF-8") from error
    except (yaml.YAMLError, TypeError) as error:
        raise ConfigError(
            f"{path} holds no configuration ({' '.join(str(error).split())}): train the stage again"
        ) from error
    check_trusted({part: config.get(part) for part in ("model", "data", "trainer")}, path)
    root = str(config["trainer"].get("default_root_dir") or "")
    there = run_paths.located(config, run, root.removesuffix(f"/{stage}") if root.endswith(f"/{stage}") else None)
    return dict(there)


def prompt_world(config: Mapping[str, Any]) -> str | None:
    """The built-in world whose words the prompts of a distillation have; None where they are free."""
    data = (config.get("data") or {}).get("init_args") or {}
    text = config["model"]["init_args"]["student"]["init_args"]["text"]["class_path"]
    free = data.get("file") or data.get("kind") not in WORLDS or not text.endswith(".TinyText")
    return None if free else str(data["kind"])


def student_file(run: Path) -> Path:
    """The weights of a run's student, under the name that they have in a run folder or in one from the Hub."""
    pulled = run / MODEL
    return pulled if pulled.is_file() and not (run / STUDENT).is_file() else run / STUDENT


def check_student(run: Path, weights: Path | None) -> None:
    """Refuses a run folder, or weights in place of its student's, that are not there.

    Raises:
        ConfigError: with what makes them.
        NoWeightsError: the file is something else.
    """
    source = weights or student_file(run)
    if str(source) not in BUILTIN and not source.exists():
        raise ConfigError(f"no weights at {source}; {to_come_by(source, BUILTIN)}")
    if weights is not None and weights.is_file():
        file_kind.kind(weights)  # what is no weights at all is told before anything is loaded
