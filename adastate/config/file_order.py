"""In which order files of conf/ are laid over each other, and which of them go together."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

from adastate.config.conf_files import conf_path
from adastate.config.schema import ConfigError

ORDER = ("base", "sizes", "stages", "recipes")
"""What is shared, a size, a stage, and changes of a stage."""

OF_A_STAGE = ("recipes", "data")
"""Folders whose files change the stage with which their names begin."""


LARGER = ["wan_1_3b", "wan_14b"]
"""The one size that is laid over another: a larger teacher alone."""


def check_order(files: Sequence[Path]) -> None:
    """Refuses files of conf/ whose order would have them undo each other, and changes of another stage.

    Raises:
        ConfigError: for the first of them, with what to do.
    """
    ours = [(_folder(file), file) for file in files if file.parts[:1] == ("conf",) and conf_path(file).is_file()]
    for (first, before), (second, after) in pairwise([part for part in ours if part[0] in ORDER]):
        if ORDER.index(second) < ORDER.index(first):
            raise ConfigError(
                f"--config {after} stands after {before}: give it before, for a file is laid over those before it"
            )
    stages = {file.stem.partition("_")[0] for folder, file in ours if folder == "stages"}
    if len(stages) > 1:
        raise ConfigError(f"{' and '.join(sorted(stages))} are several stages: a command has one, so give one of them")
    sizes = [file.stem for folder, file in ours if folder == "sizes"]
    if len(set(sizes)) > 1 and sizes != LARGER:
        raise ConfigError(f"{' and '.join(sizes)} are several sizes: a run has one, so give one of them")
    for folder, file in ours:
        stage = file.stem.partition("_")[0]
        if folder in OF_A_STAGE and stages and stage not in stages:
            raise ConfigError(f"{file} changes conf/stages/{stage}.yaml, and here is {', '.join(sorted(stages))}")


def _folder(file: Path) -> str:
    """Of conf/, where a file lies; "base" for what all share."""
    return file.parts[1] if len(file.parts) > 2 else file.stem
