"""The Dockerfile, which no test builds: it has what the package is made of, its extras and its versions, and lints."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
STAGES = dict(
    re.findall(
        r"^FROM \S+ AS (\w+)\n(.*?)(?=^FROM|\Z)", (ROOT / "Dockerfile").read_text().replace("\\\n", ""), re.M | re.S
    )
)


def copied(stage: str) -> set[str]:
    return {word for line in re.findall(r"^COPY (.*) \S+$", STAGES[stage], re.M) for word in line.split()}


@pytest.mark.parametrize("stage", ["cpu", "cuda"])
def test_a_stage_has_all_that_the_wheel_is_made_of(stage: str) -> None:
    parts = set(PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["only-include"])
    files = {PROJECT["project"]["readme"], *PROJECT["project"]["license-files"], "pyproject.toml", "constraints.txt"}
    assert copied(stage) == parts | files
    kept = set(re.findall(r"^!(\S+)$", (ROOT / ".dockerignore").read_text(), re.M))
    assert kept == copied(stage) and all((ROOT / name).exists() for name in kept)


@pytest.mark.parametrize(("stage", "lacks"), [("cpu", {"gpu", "lmdb"}), ("cuda", set())])
def test_a_stage_installs_the_extras_for_running(stage: str, lacks: set[str]) -> None:
    (extras,) = re.findall(r"'\.\[(.*)\]'", STAGES[stage])
    running = set(PROJECT["project"]["optional-dependencies"]) - {"dev", "docs", "flash", "completion"}
    assert set(extras.split(",")) == running - lacks
    installs = re.findall(r"pip install [^&\n]*", STAGES[stage])
    assert len(installs) == 2 and all("-c constraints.txt" in line for line in installs)
    assert "torch" in installs[0].split(), "torch goes first and alone"


@pytest.mark.parametrize("stage", ["cpu", "cuda"])
def test_a_stage_runs_adastate_as_somebody_else_than_root(stage: str) -> None:
    assert re.findall(r"^USER (\S+)$", STAGES[stage], re.M) == ["1000"]
    assert 'ENTRYPOINT ["adastate"]' in STAGES[stage]


def test_versions_are_those_of_the_project() -> None:
    text = (ROOT / "Dockerfile").read_text()
    (python,) = re.findall(r"^FROM python:3\.(\d+)-", text, re.M)
    assert int(python) >= int(PROJECT["project"]["requires-python"].removeprefix(">=3."))
    conda = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
    (cuda,) = (d.removeprefix("cuda-toolkit=") for d in conda if isinstance(d, str) and d.startswith("cuda-toolkit"))
    assert re.findall(r"^FROM nvidia/cuda:(\d+\.\d+)\.", text, re.M) == [cuda]


def test_hadolint_has_nothing_to_say() -> None:
    tool = shutil.which("hadolint", path=str(Path(sys.executable).parent))
    if tool is None:
        pytest.skip("hadolint is among the dependencies of `dev`")
    done = subprocess.run([tool, "Dockerfile"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
