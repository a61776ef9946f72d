"""A study that is continued elsewhere repeats no run whose record is there, and every run whose record is another's."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from adastate.study import cli, made_from, runner
from adastate.study.arm_stages import StudySetting
from adastate.study.made_from import recorded_elsewhere
from adastate.study.records import records_folder
from adastate.study.table import Task, read_table

TABLE = read_table()
SHORT = TABLE.budgets["short"]
TASKS = TABLE.tasks(SHORT)
FIRST = [task for task in TASKS if task.seed == 0]


@pytest.fixture
def study_setting(tmp_path: Path) -> StudySetting:
    return StudySetting(tmp_path / "study", "fog", SHORT)


def record(folder: Path, task: Task, told: dict[str, str], start: str = "one") -> None:
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps({"made_from": {**told, "initialisation": start}})
    (folder / f"{task.arm.name}-seed{task.seed}.json").write_text(text)


def all_recorded(folder: Path, setting: StudySetting, tasks: Sequence[Task] = FIRST, start: str = "one") -> None:
    for task in tasks:
        record(folder, task, made_from.made_from(setting, task), start)


def test_runs_that_are_all_recorded_count(tmp_path: Path, study_setting: StudySetting) -> None:
    all_recorded(tmp_path, study_setting)
    assert recorded_elsewhere(study_setting, TASKS, tmp_path) == FIRST


def other_start(folder: Path, setting: StudySetting) -> None:
    record(folder, FIRST[1], made_from.made_from(setting, FIRST[1]), "another")


def other_teacher(folder: Path, setting: StudySetting) -> None:
    record(folder, FIRST[1], made_from.made_from(replace(setting, world="journey"), FIRST[1]))


def other_budget(folder: Path, setting: StudySetting) -> None:
    more = replace(SHORT, iterations=SHORT.iterations + 1)
    record(folder, FIRST[1], made_from.made_from(replace(setting, budget=more), FIRST[1]))


def other_arm(folder: Path, setting: StudySetting) -> None:
    task = replace(FIRST[1], arm=replace(FIRST[1].arm, stream={"past_frames": 5}))
    record(folder, task, made_from.made_from(setting, task))


def of_before_digests(folder: Path, setting: StudySetting) -> None:
    (folder / f"{FIRST[1].arm.name}-seed0.json").write_text("{}")


def missing(folder: Path, setting: StudySetting) -> None:
    (folder / f"{FIRST[1].arm.name}-seed0.json").unlink()


def with_a_folder_here(folder: Path, setting: StudySetting) -> None:
    FIRST[1].folder(setting.root).mkdir(parents=True)


@pytest.mark.parametrize(
    "spoil", [other_start, other_teacher, other_budget, other_arm, of_before_digests, missing, with_a_folder_here]
)
def test_a_seed_of_which_one_run_is_another_s_is_repeated(
    spoil: Callable[[Path, StudySetting], None], tmp_path: Path, study_setting: StudySetting
) -> None:
    all_recorded(tmp_path, study_setting)
    spoil(tmp_path, study_setting)
    assert recorded_elsewhere(study_setting, TASKS, tmp_path) == []


def test_a_study_begins_with_what_has_no_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begun: list[Any] = []

    def started(tasks: Sequence[Any], *rest: Any) -> list[Any]:
        begun.extend(tasks)
        raise SystemExit(0)

    monkeypatch.setattr(runner, "run_all", started)
    monkeypatch.setattr(cli, "prepare_study", lambda *told: None)
    words = ["--world", "fog", "--out", str(tmp_path / "study"), "--record", str(tmp_path / "records")]
    setting = cli.setting(cli.parser().parse_args(words), TABLE)
    all_recorded(records_folder(setting.root, "fog", tmp_path / "records"), setting)
    with pytest.raises(SystemExit):
        cli.main(words)
    assert not [one for one in begun if one.seed == 0]
    assert [one for one in begun if isinstance(one, Task)] == [task for task in TASKS if task.seed > 0]
