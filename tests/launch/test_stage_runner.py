"""Stages are run in order, skipped where done, gone on with where begun, and told when they fail."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from rich.console import Console

from adastate.launch import process_group, stage_runner
from adastate.launch.stage_runner import Stage, StageMark, StageRunner
from adastate.runtime import signals


def run_stage(stage: Stage, run: Path, restart: bool = False) -> StageMark:
    return StageRunner(run, Console(quiet=True)).run_stage(stage, restart)


@pytest.mark.slow
def test_a_done_stage_is_skipped_until_its_command_changes(tmp_path: Path) -> None:
    stage = Stage("shards", ["shards", "--world", "plain", "--clips", "2", "--out", str(tmp_path / "a")], lambda: "two")
    assert run_stage(stage, tmp_path).skipped is False
    assert run_stage(stage, tmp_path).skipped is True
    other = Stage("shards", ["shards", "--world", "plain", "--clips", "2", "--out", str(tmp_path / "b")], lambda: "two")
    assert run_stage(other, tmp_path).skipped is False


def test_a_moved_run_goes_on_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its marks do not name the place where they were written; older ones do, and hold at that place."""
    calls: list[list[str]] = []
    monkeypatch.setattr(process_group, "run_command", lambda argv: calls.append(argv) or 0)

    def stage(run: Path) -> Stage:
        return Stage("init", ["fit", f"--run.dir={run}", "--teacher.weights", f"{run}/teacher.safetensors"])

    old, new = tmp_path / "old", tmp_path / "else" / "new"
    run_stage(stage(old), old)
    mark = old / "stages" / "init.json"
    assert str(tmp_path) not in mark.read_text()
    shutil.copytree(old, new)
    assert run_stage(stage(new), new).skipped and len(calls) == 1
    mark.write_text(json.dumps(json.loads(mark.read_text()) | {"argv": stage(old).argv}))
    assert run_stage(stage(old), old).skipped and len(calls) == 1


@pytest.mark.parametrize("left", ["", '{"argv": ', "[]", '{"seconds": 3}'])
def test_a_mark_that_is_damaged_is_named_and_nothing_is_made_again(tmp_path: Path, left: str) -> None:
    """Made again, a stage would move hours of work aside."""
    (tmp_path / "stages").mkdir()
    (tmp_path / "stages" / "init.json").write_text(left)
    with pytest.raises(ValueError, match=r"init.json is damaged .*: without it the stage is made again, so delete it"):
        run_stage(Stage("init", ["fit"]), tmp_path)


def test_a_failed_stage_stops_the_run_says_so_and_is_not_marked_done(tmp_path: Path) -> None:
    stage = Stage("broken", ["shards", "--videos", str(tmp_path / "none"), "--out", str(tmp_path / "out")])
    with pytest.raises(SystemExit, match="the stage 'broken' failed"):
        run_stage(stage, tmp_path)
    assert '"done": false' in (tmp_path / "stages" / "broken.json").read_text()


def test_what_was_begun_goes_on_from_its_checkpoint_unless_something_before_it_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[list[str]] = []

    codes = [1, 0, 0]
    monkeypatch.setattr(process_group, "run_command", lambda argv: calls.append(argv) or codes[len(calls) - 1])
    stage = Stage("distill", ["fit", "--run.seed=3"])
    with pytest.raises(SystemExit):
        run_stage(stage, tmp_path)
    (tmp_path / "distill" / "checkpoints").mkdir(parents=True)
    run_stage(stage, tmp_path)
    run_stage(stage, tmp_path, restart=True)
    assert ["--ckpt_path=auto" in argv for argv in calls] == [False, True, False]


def test_what_uses_a_stage_that_has_changed_begins_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    monkeypatch.setattr(process_group, "run_command", lambda argv: calls.append(argv[0]) or 0)

    def run(*changes: str) -> tuple[list[str], list[str]]:
        """(commands that were run, stages that were skipped)"""
        calls.clear()
        told = [word + "!" * (word in changes) for word in ("teacher", "gate", "student")]
        stages = [
            Stage("teacher", [told[0]]),
            Stage("gate", [told[1]], feeds=False),
            Stage("student", [told[2]], folder=tmp_path / "other"),
        ]
        reported: list[str] = []
        marks = StageRunner(tmp_path, Console(quiet=True)).run_stages(
            stages, lambda stage, _: reported.append(stage.name)
        )
        assert reported == [stage.name for stage in stages]
        return [*calls], [stage.name for stage, mark in zip(stages, marks, strict=True) if mark.skipped]

    assert run() == (["teacher", "gate", "student"], [])
    assert {str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*.json")} == {
        "stages/teacher.json", "stages/gate.json", "other/stages/student.json"
    }  # fmt: skip
    assert run() == ([], ["teacher", "gate", "student"])
    assert run("teacher") == (["teacher!", "gate", "student"], [])
    assert run("teacher", "gate") == (["gate!"], ["teacher", "student"]), "nothing is made of what a gate says"
    assert run("teacher", "gate", "student") == (["student!"], ["teacher", "gate"])


def test_a_stage_that_was_asked_to_stop_is_not_done_and_one_that_ended_first_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for code, done in {signals.AGAIN: "false", -10: "false", 143: "false", signals.ENDED: "true"}.items():
        monkeypatch.setattr(process_group, "run_command", lambda argv, code=code: code)
        stage = Stage(f"stage {code}", ["fit"])
        with pytest.raises(SystemExit) as stop:
            run_stage(stage, tmp_path)
        assert stop.value.code == signals.AGAIN
        assert f'"done": {done}' in (tmp_path / "stages" / f"stage-{code}.json").read_text()


def test_what_a_stage_made_of_other_things_is_not_gone_on_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "paths"

    def run(argv: list[str]) -> int:
        out.mkdir(exist_ok=True)
        (out / "index.json").write_text("{}")
        (out / argv[-1]).write_text("")
        return 0

    def there(word: str, restart: bool = False) -> set[str]:
        run_stage(Stage("paths", ["trajectories", word], makes=out), tmp_path, restart)
        return {p.name for p in out.iterdir()} - {"index.json"}

    monkeypatch.setattr(process_group, "run_command", run)
    out.mkdir()
    (out / "index.json").write_text("{}")
    (out / "mine").write_text("")
    assert there("a") == {"mine", "a"}, "what was not made by the pipeline is not taken away by it"
    assert there("b") == {"b"}
    (out / "b").unlink()
    assert there("b") == set(), "done"
    assert there("b", restart=True) == {"b"}


def test_a_mark_tells_seconds_over_all_attempts_and_losses_of_the_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from torch.utils.tensorboard import SummaryWriter

    stage, clock = Stage("init", ["fit", "a"]), [0.0]

    def run(argv: list[str], values: list[float], seconds: float, code: int) -> int:
        writer = SummaryWriter(str(tmp_path / "init"))
        for step, value in enumerate(values):
            writer.add_scalar("init/loss", value, step)
        writer.close()
        clock[0] += seconds
        return code

    monkeypatch.setattr(stage_runner.time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(process_group, "run_command", lambda argv: run(argv, [9.0] * 40, 5.0, 1))
    with pytest.raises(SystemExit):
        run_stage(stage, tmp_path)
    monkeypatch.setattr(process_group, "run_command", lambda argv: run(argv, [2.0, 4.0, *[3.0] * 16, 1.0, 0.0], 7.0, 0))
    other = Stage("init", ["fit", "b"])
    told = run_stage(other, tmp_path)
    assert told.seconds == 7.0 and [*told.losses["init/loss"]] == [3.0, 0.5], "another attempt's curve is not meant"
    monkeypatch.setattr(process_group, "run_command", lambda argv: run(argv, [1.0], 2.0, 1))
    with pytest.raises(SystemExit):
        run_stage(stage, tmp_path)
    monkeypatch.setattr(process_group, "run_command", lambda argv: run(argv, [1.0], 3.0, 0))
    assert run_stage(stage, tmp_path).seconds == 5.0, "both attempts of one command"
