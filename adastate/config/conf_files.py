"""Where conf/ lies: in the working directory, or else with what is installed."""

from __future__ import annotations

from pathlib import Path

PACKAGE = Path(__file__).parents[1]


def conf_path(path: str | Path) -> Path:
    """`path` as it is; or, if it begins with conf/ and is not here, the file or folder of that name that comes with the
    project, so that commands run from any folder."""
    here = Path(path)
    if here.parts[:1] == ("conf",) and not here.exists():
        for root in (PACKAGE, PACKAGE.parent):  # of a wheel, of a checkout
            if (root / here).exists():
                return root / here
    return here


FOLDERS = {"--stage": "stages", "--recipe": "recipes", "--strategy": "strategy", "--size": "sizes"}
"""Folders of conf/ whose files are asked for as if an option named them."""


def as_file(option: str, name: str, command: str) -> str:
    """A sentence for an option of FOLDERS, whose value names a file of conf/."""
    folder = FOLDERS[option]
    there = (conf_path(f"conf/{folder}") / f"{name}.yaml").is_file()
    return f"{option} is not an option of `{command}`: use --config conf/{folder}/{name if there else 'NAME'}.yaml"
