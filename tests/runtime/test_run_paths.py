"""Paths in a run folder go where it goes."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import yaml

from adastate.config.compose import compose
from adastate.runtime.run_paths import located, run_of, stored_paths, stored_words


@pytest.mark.parametrize("written", ["runs/my run", "{here}/runs/my run"])
def test_what_is_stored_names_the_run_folder_nowhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, written: str
) -> None:
    monkeypatch.chdir(tmp_path)
    run = Path(written.format(here=tmp_path))
    node = {
        "root": f"{run}/distill", "run": str(run),
        "list": [f"{run.absolute()}/a.pt", f"{run}-2/b.pt", "builtin", 3, None],
        "prompt": f"a view of {run}/x",
    }  # fmt: skip
    kept = stored_paths(node, run)
    assert kept == {
        "root": "@run/distill", "run": "@run", "list": ["@run/a.pt", f"{run}-2/b.pt", "builtin", 3, None],
        "prompt": f"a view of {run}/x",
    }  # fmt: skip
    assert located(yaml.safe_load(yaml.safe_dump(kept)), Path("/there"))["list"][0] == "/there/a.pt"
    assert "'@run/a.pt'" in yaml.safe_dump(kept), "quoted, so that its text is not read again"


def test_of_a_command_line_and_of_a_folder_around_the_run() -> None:
    def words(root: str) -> list[str]:
        here = [f"--run.dir={root}/runs/a", f"--data.file={root}/prompts.txt", "--out", f"{root}/runs/a/x"]
        return stored_words(["fit", *here, "--t=t/w.pt", root], Path(f"{root}/runs/a"), Path(root))

    there = ["fit", "--run.dir=@run", "--data.file=@run/../../prompts.txt", "--out", "@run/x", "--t=t/w.pt"]
    assert words("s") == words("/d/s 2") == [*there, "@run/../.."]
    assert located("@run/../../prompts.txt", Path("/d/s2/runs/a")) == "/d/s2/prompts.txt"


def test_a_run_in_the_working_folder_keeps_its_names() -> None:
    assert stored_paths(["./a", "a/b", "/x"], Path()) == ["./a", "a/b", "/x"]


def test_paths_of_an_older_run_folder_are_found_in_it(tmp_path: Path) -> None:
    run, away = tmp_path / "now", tmp_path / "away.pt"
    (run / "sub").mkdir(parents=True)
    for file in (run / "teacher.pt", run / "sub" / "a.pt", away):
        file.touch()
    assert located(["/gone/run/teacher.pt", "gone/sub/a.pt"], run) == [f"{run}/teacher.pt", f"{run}/sub/a.pt"]
    for kept in (str(away), "/gone/else.pt", "teacher.pt", "gone/../teacher.pt", "red/blue and\nteacher.pt"):
        assert located(kept, run) == kept
    old = tmp_path / "old"
    shutil.copytree(run, old)
    assert located(f"{old}/teacher.pt", run, str(old)) == f"{run}/teacher.pt", "a copy's own, though the other is there"
    assert located(f"{old}/none.pt", run, str(old)) == f"{old}/none.pt"


@pytest.mark.parametrize(
    ("file", "run"),
    [
        ("r/x/distill/config.yaml", "r/x"),
        ("r/x/distill/checkpoints/00000100/config.yaml", "r/x"),
        ("distill/config.yaml", "."),
        ("/r/arm.yaml", "/r"),
        ("config.yaml", ".."),
    ],
)
def test_the_run_of_a_config(file: str, run: str) -> None:
    assert str(run_of(Path(file))) == run


def test_a_stored_config_is_composed_where_it_lies(tmp_path: Path) -> None:
    for place in ("a b", "c #1: d"):
        file = tmp_path / place / "distill" / "config.yaml"
        file.parent.mkdir(parents=True)
        file.write_text(yaml.safe_dump({"run": {"dir": "@run"}, "trainer": {"default_root_dir": "@run/distill"}}))
        config = compose([file])
        assert config.variables["run"]["dir"] == str(tmp_path / place)
        assert config.lightning["trainer"]["default_root_dir"] == str(tmp_path / place / "distill")
