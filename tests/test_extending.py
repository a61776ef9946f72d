"""The sections of docs/extending.md, each applied to a copy of the project and run.

A section is a `##` heading with `diff` blocks, which are applied in their order, and `bash` blocks, whose lines are run
one after the other in the copy: `pytest ...`, `adastate ...` or `python ...`. Line counts of hunks need not be right.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import pytest

ROOT = Path(__file__).parents[1]
COPIED = ("adastate", "callbacks", "conf", "datamodules", "tests", "pyproject.toml")
PROGRAMS = {
    "pytest": [sys.executable, "-m", "pytest"],
    "adastate": [sys.executable, "-m", "adastate"],
    "python": [sys.executable],
}


class Section(NamedTuple):
    title: str
    diff: str
    commands: list[str]


def sections(text: str) -> list[Section]:
    found = []
    for part in re.split(r"^## ", text, flags=re.M)[1:]:
        diffs = re.findall(r"^```diff\n(.*?)^```", part, re.M | re.S)
        blocks = re.findall(r"^```bash\n(.*?)^```", part, re.M | re.S)
        commands = [line for block in blocks for line in block.replace("\\\n", " ").splitlines() if line.strip()]
        found.append(Section(part.partition("\n")[0], "".join(diffs), commands))
    return found


SECTIONS = sections((ROOT / "docs/extending.md").read_text())


def copy_project(to: Path) -> Path:
    for name in COPIED:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, to / name)  # with what is compiled, which saves seconds
        else:
            shutil.copy(ROOT / name, to / name)
    return to


def apply_diff(diff: str, project: Path) -> None:
    """Each file on its own: a recount reads the head of the next one as lines that are taken away."""
    for part in re.split(r"^(?=--- .*\n\+\+\+ )", diff, flags=re.M)[1:]:
        ran = subprocess.run(
            ["git", "apply", "--recount", "--whitespace=nowarn", "-"],
            cwd=project, input=part, text=True, capture_output=True,
            env={**os.environ, "GIT_CEILING_DIRECTORIES": str(project.parent)},
        )  # fmt: skip
        assert ran.returncode == 0, f"the diff does not apply:\n{ran.stderr}"


def run_in(project: Path, command: str) -> str:
    program, *arguments = shlex.split(command, comments=True)
    ran = subprocess.run(
        [*PROGRAMS[program], *arguments],
        cwd=project, text=True, capture_output=True,
        env={**os.environ, "PYTHONPATH": str(project), "PYTHONDONTWRITEBYTECODE": "1"},
    )  # fmt: skip
    assert ran.returncode == 0, f"{command}\n{ran.stdout[-4000:]}{ran.stderr[-4000:]}"
    return ran.stdout


def _case(section: Section) -> Any:
    trains = any(command.startswith("adastate fit") for command in section.commands)
    return pytest.param(section, id=section.title, marks=[pytest.mark.slow] if trains else [])


@pytest.mark.parametrize("section", map(_case, SECTIONS))
@pytest.mark.slow
def test_a_section_s_diff_applies_and_its_commands_run(section: Section, tmp_path: Path) -> None:
    assert section.diff and section.commands, "a section has a diff and a command"
    project = copy_project(tmp_path)
    apply_diff(section.diff, project)
    for command in section.commands:
        run_in(project, command)


def test_the_copy_is_what_runs(tmp_path: Path) -> None:
    told = run_in(copy_project(tmp_path), "python -c 'import adastate; print(adastate.__file__)'")
    assert Path(told.strip()).is_relative_to(tmp_path)


def test_a_diff_that_is_out_of_date_is_seen(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("one\ntwo\n")
    stale = "--- a/a.txt\n+++ b/a.txt\n@@ -1,2 +1,2 @@\n one\n-three\n+four\n"
    with pytest.raises(AssertionError, match="does not apply"):
        apply_diff(stale, tmp_path)
    apply_diff(stale.replace("three", "two"), tmp_path)
    assert (tmp_path / "a.txt").read_text() == "one\nfour\n"
