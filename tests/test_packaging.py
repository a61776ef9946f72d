"""One list of versions, and documents that name what exists."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

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


def test_every_template_goes_into_the_wheel() -> None:
    data = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]
    packed = {path for package, patterns in data.items() for p in patterns for path in (ROOT / package).glob(p)}
    templates = {
        path for package in ("adastate", "callbacks", "datamodules") for path in (ROOT / package).rglob("*.jinja")
    }
    assert templates and templates <= packed


def test_the_reference_names_every_make_target_and_only_those() -> None:
    targets = set(re.findall(r"^([a-z][a-z-]*):.*## ", (ROOT / "Makefile").read_text(), re.M))
    page = (ROOT / "docs/reference/make.md").read_text()
    table = page.split("## Targets")[1].split("## Variables")[0]
    named = set(re.findall(r"`make ([a-z][a-z-]*)", table))
    assert targets == named, targets ^ named


def test_the_readme_shows_pictures_that_exist() -> None:
    for picture in re.findall(r"!\[[^\]]*\]\(([^)]+)\)", (ROOT / "README.md").read_text()):
        assert (ROOT / picture).is_file(), picture


def test_every_config_file_of_a_stage_and_a_size_is_composed_without_complaint() -> None:
    from adastate.config.compose import compose

    for size in sorted((ROOT / "conf/sizes").glob("*.yaml")):
        base = (
            [ROOT / "conf/base.yaml", ROOT / "conf/sizes/wan_1_3b.yaml"]
            if size.stem == "wan_14b"
            else [ROOT / "conf/base.yaml"]
        )
        for stage in sorted((ROOT / "conf/stages").glob("*.yaml")):
            over = {"distill_tiny": "distill", "codec_flight": "codec"}.get(stage.stem)
            below = [ROOT / f"conf/stages/{over}.yaml"] if over else []
            config = compose([*base, size, *below, stage])
            assert config.lightning["model"]["class_path"].startswith("adastate.")
    for recipe in sorted((ROOT / "conf/recipes").glob("*.yaml")):
        lines = recipe.read_text().splitlines()
        stage = ROOT / f"conf/stages/{recipe.stem.partition('_')[0]}.yaml"
        assert lines[0].startswith(f"# Layered over stages/{stage.name}"), recipe
        for size in ("tiny", "flight", "wan_1_3b"):
            compose([ROOT / "conf/base.yaml", ROOT / f"conf/sizes/{size}.yaml", stage, recipe])
