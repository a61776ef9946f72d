"""`adastate train`: what runs, what is skipped, and what is said when a stage fails."""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path
from typing import NamedTuple

import pytest
from rich.console import Console

from adastate import launch, pipeline, signals
from adastate.pipeline import Stage, run_stage, stages


def arguments(run: Path, **changes: object) -> argparse.Namespace:
    chosen = {"run": str(run), "size": "tiny", "data": "world", "teacher": "builtin", "clips": 8, "rest": []}
    return argparse.Namespace(**{**chosen, **changes})


def names(run: Path, **changes: object) -> list[str]:
    return [stage.name for stage in stages(arguments(run, **changes))]


def test_the_teacher_is_trained_only_when_there_is_none(tmp_path: Path) -> None:
    tail = ["trajectories", "init", "distill", "rollouts 1x", "rollouts 6x", "evaluate"]
    assert names(tmp_path) == ["shards", *tail]
    assert names(tmp_path, teacher="scratch") == ["shards", "teacher", *tail]
    assert names(tmp_path, data="clips") == ["clips", "shards", "codec", "teacher", *tail]
    assert names(tmp_path, data=str(tmp_path)) == ["shards", "codec", "teacher", *tail]


def test_the_clips_of_a_small_folder_overlap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def overlap(data: str) -> bool:
        (cut,) = (stage.argv for stage in stages(arguments(tmp_path, data=data)) if stage.name == "shards")
        return "--stride" in cut

    folder = tmp_path / "videos"
    folder.mkdir()
    (folder / "a.mp4").write_bytes(b"0" * 100)
    assert overlap("clips") and overlap(str(folder)) and not overlap("world")
    monkeypatch.setattr(pipeline, "SMALL_FOLDER", 99)
    assert overlap("clips") and not overlap(str(folder))


def test_a_done_stage_is_skipped_until_its_command_changes(tmp_path: Path) -> None:
    console = Console(quiet=True)
    stage = Stage("shards", ["shards", "--world", "2", "--out", str(tmp_path / "a")], lambda: "two")
    assert run_stage(stage, tmp_path, console)["skipped"] is False
    assert run_stage(stage, tmp_path, console)["skipped"] is True
    other = Stage("shards", ["shards", "--world", "2", "--out", str(tmp_path / "b")], lambda: "two")
    assert run_stage(other, tmp_path, console)["skipped"] is False


def test_a_failed_stage_stops_the_run_says_so_and_is_not_marked_done(tmp_path: Path) -> None:
    stage = Stage("broken", ["shards", "--videos", str(tmp_path / "none"), "--out", str(tmp_path / "out")])
    with pytest.raises(SystemExit, match="the stage 'broken' failed"):
        run_stage(stage, tmp_path, Console(quiet=True))
    assert '"done": false' in (tmp_path / "stages" / "broken.json").read_text()


def test_a_full_disk_is_told_before_anything_starts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Usage(NamedTuple):
        free: int

    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(10**8))
    monkeypatch.setattr(pipeline, "stages", lambda _: pytest.fail("nothing may start"))
    with pytest.raises(SystemExit, match=r"0\.1 GB free"):
        pipeline.main(["--run", str(tmp_path)])


def test_what_was_begun_goes_on_from_its_checkpoint_unless_something_before_it_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[list[str]] = []

    codes = [1, 0, 0]
    monkeypatch.setattr(launch, "run", lambda argv: calls.append(argv) or codes[len(calls) - 1])
    stage, console = Stage("distill", ["fit", "--run.seed=3"]), Console(quiet=True)
    with pytest.raises(SystemExit):
        run_stage(stage, tmp_path, console)
    (tmp_path / "distill" / "checkpoints").mkdir(parents=True)
    run_stage(stage, tmp_path, console)
    run_stage(stage, tmp_path, console, anew=True)
    assert ["--ckpt_path=auto" in argv for argv in calls] == [False, True, False]


def test_a_stage_that_was_asked_to_stop_is_not_done_and_one_that_ended_first_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for code, done in {signals.AGAIN: "false", -10: "false", 143: "false", signals.ENDED: "true"}.items():
        monkeypatch.setattr(launch, "run", lambda argv, code=code: code)
        stage = Stage(f"stage {code}", ["fit"])
        with pytest.raises(SystemExit) as stop:
            run_stage(stage, tmp_path, Console(quiet=True))
        assert stop.value.code == signals.AGAIN
        assert f'"done": {done}' in (tmp_path / "stages" / f"stage-{code}.json").read_text()
