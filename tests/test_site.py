"""`make docs`: every page is on the site, links between files become links between pages, a wrong one is an error."""

from __future__ import annotations

import importlib.util
import inspect
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

import adastate

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def site() -> ModuleType:
    spec = importlib.util.spec_from_file_location("site_pages", ROOT / ".ci/site_pages.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("text", "here", "there", "found"),
    [
        ("[a](../CONTRIBUTING.md)", "docs", "", "[a](contributing.md)"),
        ("[a](../../tests/data/README.md#x)", "docs/results", "results", "[a](../reference/recorded_runs.md#x)"),
        ("[a](docs/glossary.md#b)", "", "", "[a](glossary.md#b)"),
        ("[a](docs/guide/data.md)", "", "reference", "[a](../guide/data.md)"),
        ("[a](plan.md) [b](#c) [d](https://x.org/e.md)", "docs/guide", "guide", "[a](plan.md) [b](#c) [d](https://x.org/e.md)"),
    ],
)  # fmt: skip
def test_links_between_files_become_links_between_pages(
    site: ModuleType, text: str, here: str, there: str, found: str
) -> None:
    assert site.relinked(text, Path(here), Path(there)) == found


def test_the_site_has_every_page(site: ModuleType) -> None:
    told = set(re.findall(r"^ *- (?:\w+: )?(\S+\.md)$", (ROOT / "mkdocs.yml").read_text(), re.M))
    pages = {str(p.relative_to(ROOT / "docs")) for p in (ROOT / "docs").rglob("*.md")}
    assert told == pages | set(site.BESIDE.values())


def build(folder: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "-f", str(folder / "mkdocs.yml")]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)


@pytest.mark.slow
def test_the_site_is_built_and_a_wrong_link_is_an_error(site: ModuleType, tmp_path: Path) -> None:
    pytest.importorskip("mkdocs", reason="it is among the dependencies of `dev`, and builds the site")
    for part in ("docs", "adastate", ".ci", "tests/data"):
        shutil.copytree(ROOT / part, tmp_path / part, ignore=shutil.ignore_patterns("*.safetensors", "__pycache__"))
    for name in ("mkdocs.yml", "CONTRIBUTING.md", "CHANGELOG.md"):
        shutil.copy(ROOT / name, tmp_path / name)
    done = build(tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    page = (tmp_path / "site/reference/api/index.html").read_text()
    for name in ("adastate.load", "adastate.Model.stream", "adastate.live.session.Session.rollback"):
        assert f'id="{name}"' in page, name
    told = str(inspect.getdoc(adastate.load)).split("run_or_weights: ")[1].split(" `")[0]
    assert " ".join(told.split()) in " ".join(page.split()), "what the docstring says of an argument"
    with (tmp_path / "docs/glossary.md").open("a") as file:
        file.write("\n[a](guide/plan.md#no-such-heading)\n")
    done = build(tmp_path)
    assert done.returncode != 0 and "no-such-heading" in done.stderr
    (tmp_path / "docs/glossary.md").write_text("# Glossary\n\n::: adastate.no.such.thing\n")
    done = build(tmp_path)
    assert done.returncode != 0 and "adastate.no.such.thing" in done.stdout + done.stderr
