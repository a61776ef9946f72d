"""One list of versions, and documents that name what exists."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.version import Version

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def test_environment_yml_installs_the_project_with_its_extras_and_pins_nothing_of_its_own() -> None:
    dependencies = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
    (pip,) = (d["pip"] for d in dependencies if isinstance(d, dict))
    (line,) = pip
    extras = re.fullmatch(r"-e \.\[(.+)\]", line)
    assert extras and set(extras[1].split(",")) == set(PROJECT["optional-dependencies"]) - {"flash"}
    ours = {Requirement(r).name for r in PROJECT["dependencies"]}
    conda = {re.split(r"[=<> ]", d)[0] for d in dependencies if isinstance(d, str)}
    assert not ours & conda, "pyproject.toml is the one list of versions"


def test_the_constraints_lie_within_the_ranges_of_the_project() -> None:
    lines = [x for x in (ROOT / "constraints.txt").read_text().splitlines() if x and not x.startswith("#")]
    pinned = {name.lower().replace("_", "-"): Version(version) for name, version in (x.split("==") for x in lines)}
    wanted = [Requirement(r) for r in [*PROJECT["dependencies"], *PROJECT["optional-dependencies"]["dev"]]]
    for requirement in wanted:
        if requirement.name.lower() in pinned:
            assert pinned[requirement.name.lower()] in requirement.specifier, requirement
    assert {"torch", "lightning", "webdataset", "omegaconf"} <= pinned.keys()


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel unpacked, as pip installs it, built out of a copy of the files that git tracks."""
    pytest.importorskip("hatchling", reason="it is among the dependencies of `dev`, and builds the wheel")
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    tracked = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    for name in tracked.rstrip("\0").split("\0"):
        if (ROOT / name).is_file() and not name.startswith(("tests/", "docs/")):
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, source / name)
    before = sorted(source.rglob("*"))
    build = "import sys; from hatchling.build import build_wheel; build_wheel(sys.argv[1])"
    subprocess.run([sys.executable, "-B", "-c", build, str(out)], cwd=source, check=True, capture_output=True)
    assert sorted(source.rglob("*")) == before, "nothing is left in the source tree"
    (file,) = out.glob("*.whl")
    with zipfile.ZipFile(file) as archive:
        archive.extractall(out / "site")
    return out / "site"


def test_the_wheel_has_every_file_of_the_packages_and_of_conf(wheel: Path) -> None:
    for folder, place in {**{p: p for p in ("adastate", "callbacks", "datamodules")}, "conf": "adastate/conf"}.items():
        ours = {str(p.relative_to(ROOT / folder)) for p in (ROOT / folder).rglob("*") if p.is_file()}
        packed = {str(p.relative_to(wheel / place)) for p in (wheel / place).rglob("*") if p.is_file()}
        missing = {p for p in ours - packed if "__pycache__" not in p}
        assert missing == set(), folder
    assert {p.name for p in wheel.iterdir() if not p.name.endswith(".dist-info")} == {
        "adastate",
        "callbacks",
        "datamodules",
    }


@pytest.mark.slow
def test_the_wheel_generates_in_an_empty_folder(wheel: Path, tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(wheel), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "adastate", "generate", "--seconds", "0.5"]
    made = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert made.returncode == 0, made.stderr
    (video,) = tmp_path.rglob("*.mp4")
    assert str(video.relative_to(tmp_path)) in made.stdout and str(wheel) in made.stdout + made.stderr


def test_the_reference_names_every_make_target_and_only_those() -> None:
    targets = set(re.findall(r"^([a-z][a-z-]*):.*## ", (ROOT / "Makefile").read_text(), re.M))
    page = (ROOT / "docs/reference/make.md").read_text()
    table = page.split("## Targets")[1].split("## Variables")[0]
    named = set(re.findall(r"`make ([a-z][a-z-]*)", table))
    assert targets == named, targets ^ named


def test_the_readme_shows_pictures_that_exist() -> None:
    for picture in re.findall(r"!\[[^\]]*\]\(([^)]+)\)", (ROOT / "README.md").read_text()):
        assert (ROOT / picture).is_file(), picture


@pytest.mark.slow
def test_every_config_file_of_a_stage_and_a_size_is_composed_without_complaint() -> None:
    from adastate.config.compose import compose

    for size in sorted((ROOT / "conf/sizes").glob("*.yaml")):
        base = (
            [ROOT / "conf/base.yaml", ROOT / "conf/sizes/wan_1_3b.yaml"]
            if size.stem == "wan_14b"
            else [ROOT / "conf/base.yaml"]
        )
        for stage in sorted((ROOT / "conf/stages").glob("*.yaml")):
            over = {"distill_tiny": "distill", "distill_flight": "distill", "codec_flight": "codec"}.get(stage.stem)
            below = [ROOT / f"conf/stages/{over}.yaml"] if over else []
            config = compose([*base, size, *below, stage])
            assert config.lightning["model"]["class_path"].startswith("adastate.")
    for recipe in sorted((ROOT / "conf/recipes").glob("*.yaml")):
        lines = recipe.read_text().splitlines()
        stage = ROOT / f"conf/stages/{recipe.stem.partition('_')[0]}.yaml"
        assert lines[0].startswith(f"# Layered over stages/{stage.name}"), recipe
        for size in ("tiny", "flight", "wan_1_3b"):
            compose([ROOT / "conf/base.yaml", ROOT / f"conf/sizes/{size}.yaml", stage, recipe])
