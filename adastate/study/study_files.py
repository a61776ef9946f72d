"""Checks of the files that the subcommands of `adastate study` read and write, before anything imports torch."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from adastate.config.run_folder import check_student, run_config
from adastate.config.schema import ConfigError
from adastate.runtime.plain_json import load_json
from adastate.runtime.text_files import read_text
from adastate.runtime.writable import check_file, check_writable


def check_part(args: argparse.Namespace) -> None:
    """Refuses input files that do not exist, and output paths that cannot be written.

    Raises:
        ValueError: the first problem, with its remedy.
    """
    told = vars(args)
    for name in ("teacher", "codec", "checkpoint"):
        if told.get(name) and str(told[name]) != "builtin":
            check_student(Path(), Path(told[name]))
    if told.get("checkpoint") is not None and told.get("run") is None:
        raise ConfigError("--checkpoint goes with --run, whose configuration is used for the stream: give that too")
    if told.get("run") is not None:
        run_config(told["run"], "distill")
        check_student(told["run"], told.get("checkpoint"))
    if told.get("records") is not None:
        read_study_records(told["records"])
    if told.get("claims") is not None and not told["claims"].is_file():
        raise ConfigError(f"no claims at {told['claims']}: leave out --claims for those of conf/study/claims.yaml")
    if told.get("out") is not None:
        check_writable(told["out"], "give another folder with --out")
    if told.get("json") is not None:
        check_file(told["json"], "give a file elsewhere with --json")


def read_study_records(folder: Path) -> list[dict[str, Any]]:
    """Reads the records of a folder, ordered by file name.

    Raises:
        ConfigError: there are none, or a file is not a record.
    """
    found = []
    for file in sorted(folder.glob("*.json")):
        try:
            told = load_json(read_text(file))
            protocol, arm, seed = told["protocol"], told["arm"], told["seed"]
        except (ValueError, KeyError, TypeError) as error:
            raise ConfigError(
                f"{file} is not a record of a run: give the folder that `make study` wrote them to"
            ) from error
        found.append({**told, "protocol": protocol, "arm": arm, "seed": int(seed)})
    if not found:
        raise ConfigError(f"no records in {folder}: `make study` writes them, or give their folder with --records")
    return found


def check_measured(root: Path) -> None:
    """
    Raises:
        ConfigError: no study has been measured in this folder.
    """
    if not (root / "real" / "measures.json").is_file():
        raise unmeasured(root)


def unmeasured(root: Path) -> ConfigError:
    """The error for a folder without a measured study."""
    return ConfigError(f"no measured study at {root}: run `make study` first, or give its folder with --out")
