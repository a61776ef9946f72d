"""Runs in parallel, killed, failing, and gone on with; on processes that cost nothing."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from adastate.config.command_line import read_command
from adastate.config.schema import ConfigError
from adastate.runtime import signals
from adastate.study import arm_stages, runner
from adastate.study.arm_stages import StudySetting
from adastate.study.cli import parser, setting
from adastate.study.runner import ELSEWHERE, claimed, run_all
from adastate.study.table import Beginning, Task, read_table

TABLE = read_table()
TASKS = TABLE.tasks(TABLE.budgets["short"])


def python(code: str) -> list[str]:
    return [sys.executable, "-c", code]


def test_tasks_begin_in_order_and_so_many_at_a_time(tmp_path: Path) -> None:
    said: list[str] = []
    here = tmp_path / "running"
    here.mkdir()
    code = f"""if True:
        import os, time, pathlib
        mine = pathlib.Path({str(here)!r}) / str(os.getpid())
        mine.touch()
        time.sleep(0.3)
        print(len(os.listdir(mine.parent)))
        mine.unlink()"""
    logs = {t: tmp_path / "logs" / f"{i}.log" for i, t in enumerate(TASKS[:4])}
    assert run_all(TASKS[:4], lambda t: python(code), logs.__getitem__, 2, said.append) == []
    begun = [line.split(" started")[0] for line in said if "started" in line]
    assert begun == [f"{t.arm.name}, seed {t.seed}" for t in TASKS[:4]]
    assert max(int(p.read_text()) for p in logs.values()) <= 2


def test_a_failure_is_told_with_its_log_and_stops_nobody(tmp_path: Path) -> None:
    said: list[str] = []
    codes = {TASKS[0]: 3, TASKS[1]: ELSEWHERE, TASKS[2]: 0}

    def start(task: Task) -> list[str]:
        return python(f"raise SystemExit({codes[task]})")

    assert run_all(TASKS[:3], start, lambda t: tmp_path / t.arm.name, 1, said.append) == [TASKS[0]]
    told = " ".join(said)
    assert f"failed (exit 3); its log is {tmp_path / 'state'}" in told and "by another process" in told


def test_a_task_waits_for_what_it_needs_and_is_left_where_that_fails(tmp_path: Path) -> None:
    codes = {"last": "raise SystemExit", "first": f"open({str(tmp_path / 'made')!r}, 'w')", "never": "raise SystemExit"}
    needs = {"last": tmp_path / "made", "never": tmp_path / "no"}
    said: list[str] = []
    failed = run_all(
        list(codes),
        lambda name: python(codes[name]),
        lambda name: tmp_path / f"{name}.log",
        2,
        said.append,
        lambda name: name not in needs or needs[name].exists(),
    )
    assert failed == [] and [s.split()[0] for s in said if "started" in s] == ["first", "last"]


def test_a_signal_is_passed_on_and_the_rest_is_left_for_another_time(tmp_path: Path) -> None:
    said: list[str] = []
    code = """if True:
        import signal, sys, time
        signal.signal(signal.SIGTERM, lambda *a: sys.exit(75))
        open(sys.argv[1], "w")
        time.sleep(120)"""
    up = tmp_path / "up"
    asked = "SIGTERM" if "SIGINT" in signals.UNHEARD else "SIGINT"  # a shell's & makes processes deaf to Ctrl-C

    def interrupt() -> None:
        until = time.monotonic() + 300  # a busy machine takes long to begin
        while not up.exists() and time.monotonic() < until:
            time.sleep(0.05)
        os.kill(os.getpid(), getattr(signal, asked))

    threading.Thread(target=interrupt, daemon=True).start()
    try:
        with pytest.raises(SystemExit) as stop:
            run_all(TASKS[:3], lambda t: [*python(code), str(up)], lambda t: tmp_path / t.arm.name, 1, said.append)
        assert stop.value.code == signals.AGAIN
        assert sum("started" in line for line in said) == 1 and "run the same command again" in said[-1]
    finally:
        signals.forget()


def test_a_signal_that_comes_while_a_process_is_started_reaches_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = "import signal, sys, time; signal.signal(signal.SIGTERM, lambda *a: sys.exit(75)); print(1); time.sleep(60)"
    asked = "SIGTERM" if "SIGINT" in signals.UNHEARD else "SIGINT"

    class Slow(subprocess.Popen[bytes]):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **{**kwargs, "stdout": subprocess.PIPE})
            assert self.stdout is not None and self.stdout.readline()  # it listens
            os.kill(os.getpid(), getattr(signal, asked))

    monkeypatch.setattr(subprocess, "Popen", Slow)
    began = time.monotonic()
    try:
        with pytest.raises(SystemExit):
            run_all(TASKS[:1], lambda t: [sys.executable, "-uc", code], lambda t: tmp_path / "log", 1, lambda _: None)
    finally:
        signals.forget()
    assert time.monotonic() - began < 50


def test_a_run_is_done_by_one_process_and_free_again_when_that_is_killed(tmp_path: Path) -> None:
    with claimed(tmp_path) as mine:
        assert mine
        code = f"""if True:
            import fcntl
            fcntl.flock(open({str(tmp_path / ".lock")!r}), fcntl.LOCK_EX | fcntl.LOCK_NB)"""
        assert b"BlockingIOError" in subprocess.run(python(code), capture_output=True).stderr
    hold = f"""if True:
        import fcntl, time
        file = open({str(tmp_path / ".lock")!r})
        fcntl.flock(file, fcntl.LOCK_EX)
        print("held", flush=True)
        time.sleep(60)"""
    other = subprocess.Popen(python(hold), stdout=subprocess.PIPE, text=True)
    assert other.stdout is not None and other.stdout.readline().strip() == "held"
    with claimed(tmp_path) as mine:
        assert not mine
    other.kill()
    other.wait()
    with claimed(tmp_path) as mine:
        assert mine


def a_setting(root: Path, world: str = "journey") -> StudySetting:
    return StudySetting(root, world, TABLE.budgets["short"], "t.safetensors", "c.safetensors")


def test_stages_of_a_run_compose_and_its_folder_is_a_normal_one(tmp_path: Path) -> None:
    study = a_setting(tmp_path)
    for task in (TASKS[0], TASKS[5], Task(TABLE.arms["state_loss"], 1)):
        path = task.folder(tmp_path) / "arm.yaml"
        path.parent.mkdir(parents=True)
        path.write_text(arm_stages.arm_text(study, task))
        distill, measure, *experiments = arm_stages.stages_of_run(study, task)
        assert bool(experiments) == task.arm.experiments
        config, _ = read_command(distill.argv[1:])
        found = config.lightning["model"]["init_args"]
        assert found["seed"] == task.seed and found["iterations"] == TABLE.budgets["short"].iterations
        assert found["student"]["init_args"]["stream"]["anchor"] == task.arm.spec.anchor
        assert found["student"]["init_args"]["weights"] == str(study.init(task.beginning))
        assert found["out"] == str(task.folder(tmp_path) / "student.safetensors")
        changed = task.arm.model.get("objective", {}).get("init_args", {})
        assert changed.items() <= found["objective"]["init_args"].items()
        assert measure.argv[:2] == ["study", "measure"]


def test_every_seed_begins_with_an_initialisation_of_its_own(tmp_path: Path) -> None:
    study = a_setting(tmp_path, "mist")
    begun = {t.beginning: arm_stages.arm_text(study, t) for t in TASKS}
    assert len(begun) == 8 and len({t.seed for t in TASKS}) == 8
    weights = {line for text in begun.values() for line in text.splitlines() if "weights:" in line}
    assert len(weights) == 8 and all("seed" in line for line in weights)
    for chunk in (1, 3):
        stages = arm_stages.initialisation(study, Beginning(chunk, 4))
        assert [s.name for s in stages] == ["trajectories", "ar", "causal trajectories", "init"]
        assert all(s.argv[s.argv.index("--seed") + 1] == "4" for s in stages[::2])
        for stage in stages[1::2]:  # it has no anchor yet and sees a whole horizon
            config, _ = read_command(stage.argv[1:])
            found = config.lightning["model"]["init_args"]
            assert found["seed"] == 4 and found["rollout_frames"] == 9
            assert (found["stream"]["chunk_frames"], found["stream"]["past_frames"]) == (chunk, 9 - chunk)
    frames = [
        w for w in arm_stages.initialisation(a_setting(tmp_path, "fog"), Beginning(1, 0))[1].argv if "rollout" in w
    ]
    assert frames == [], "the first study's worlds keep their horizon"


def test_initialisations_come_before_what_needs_them_and_one_ahead() -> None:
    order = runner.in_order(TASKS)
    assert len(order) == len(TASKS) + 8 and set(order) >= set(TASKS)
    assert order[:3] == [Beginning(1, 0), Beginning(1, 1), TASKS[0]]
    for task in TASKS:
        assert order.index(task.beginning) < order.index(task)
        ahead = Beginning(1, min(7, task.seed + 1))
        assert order.index(ahead) < order.index(task), "the next seed's is made meanwhile"


def test_codec_and_teacher_come_first_where_none_ship_and_the_gate_always(tmp_path: Path) -> None:
    budget = TABLE.budgets["short"]
    for world in ("mist", "circuit", "journey", "fog"):
        study = StudySetting(tmp_path, world, budget)
        told = arm_stages.shared(study)
        made = ["codec", "teacher"] if world in ("mist", "circuit") else []
        assert [s.name for s in told] == [*made, "gate", "measure"], world
        assert [f"conf/study/{world}_{s.name}.yaml" in s.argv for s in told[: len(made)]] == [True] * len(made)
        for stage in told[: len(made)]:
            config, _ = read_command(stage.argv[1:])
            assert config.lightning["data"]["init_args"]["kind"] == world
    untrained = StudySetting(tmp_path, "fog", budget, "scratch", "scratch")
    assert untrained.teacher_weights == str(tmp_path / "base/teacher.safetensors")
    assert [s.name for s in arm_stages.shared(StudySetting(tmp_path, "plain", budget))] == ["measure"]


def test_systems_are_taught_by_their_recipes_and_streamed_as_published(tmp_path: Path) -> None:
    study = StudySetting(tmp_path, "mist", TABLE.budgets["systems"])
    for name, stages in (
        ("reward_forcing", 2),
        ("memrope", 1),
        ("causvid", 2),
        ("longlive", 2),
        ("rolling_forcing", 2),
    ):
        task = Task(TABLE.arms[name], 1)
        path = task.folder(tmp_path) / "arm.yaml"
        path.parent.mkdir(parents=True)
        path.write_text(arm_stages.arm_text(study, task))
        made = arm_stages.stages_of_run(study, task)
        assert len(made) == stages
        told = ["--arm", name, "--out", str(task.folder(tmp_path))]
        assert made[-1].argv[-4:] == told if name in ("memrope", "reward_forcing") else "--arm" not in made[-1].argv
        if stages == 2:
            config, _ = read_command(made[0].argv[1:])
            found = config.lightning["model"]["init_args"]
            expected = "static" if name == "reward_forcing" else task.arm.spec.anchor
            assert found["student"]["init_args"]["stream"]["anchor"] == expected
            assert found["student"]["init_args"]["rollout_frames"] == 9 and found["iterations"] == 150
    lent = arm_stages.stages_of_run(study, Task(TABLE.arms["memrope"], 1))[0].argv
    assert lent[lent.index("--run") + 1] == str(tmp_path / "arms/self_forcing/seed1")


def test_teacher_and_codec_come_together(tmp_path: Path) -> None:
    (tmp_path / "a.safetensors").touch()
    for wrong in (
        ["--teacher", "scratch"],
        ["--teacher", str(tmp_path / "a.safetensors")],
        ["--codec", "scratch", "--teacher", str(tmp_path / "a.safetensors")],
        ["--codec", "scratch", "--teacher", "scratch", "--world", "plain"],
        ["--codec", "gone.safetensors", "--teacher", "gone.safetensors"],
    ):
        with pytest.raises(ConfigError):
            setting(parser().parse_args(wrong), TABLE)
    with pytest.raises(
        ConfigError, match="no study of the world flight: give --world mist, circuit, journey, fog, plain, or train"
    ):
        setting(parser().parse_args(["--world", "flight"]), TABLE)
    found = setting(parser().parse_args(["--world", "journey"]), TABLE)
    assert (found.teacher_weights, found.codec_weights) == ("journey", "journey")


def test_a_run_begins_anew_when_its_arm_or_its_initialisation_has_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from rich.console import Console

    from adastate.launch import process_group

    calls: list[str] = []
    monkeypatch.setattr(process_group, "run_command", lambda argv: calls.append(argv[0]) or 0)
    study, task, console = a_setting(tmp_path), TASKS[0], Console(quiet=True)
    runner.run_one(study, task, console)
    assert not arm_stages.has_changed(study, task)
    runner.run_one(study, task, console)
    assert calls == ["fit", "study", "study"]
    study.init(task.beginning).parent.mkdir(parents=True)
    study.init(task.beginning).write_bytes(b"weights")
    assert arm_stages.has_changed(study, task)
    runner.run_one(study, task, console)
    assert calls == ["fit", "study", "study"] * 2 and not arm_stages.has_changed(study, task)
    moved = replace(study, root=tmp_path.with_name(f"{tmp_path.name} moved"))
    shutil.copytree(study.root, moved.root)
    runner.run_one(moved, task, console)
    assert len(calls) == 6, "a study goes on where it has been moved to"


def test_a_killed_run_goes_on_and_a_finished_one_leaves_no_checkpoints(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from rich.console import Console

    from adastate.launch import process_group

    calls: list[list[str]] = []
    here = TASKS[0].folder(tmp_path)

    def stands_in(argv: list[str]) -> int:
        calls.append(argv)
        if argv[0] == "fit":
            (here / "distill/checkpoints").mkdir(parents=True, exist_ok=True)
        return 1 if len(calls) == 1 else 0

    monkeypatch.setattr(process_group, "run_command", stands_in)
    study, console = a_setting(tmp_path), Console(quiet=True)
    with pytest.raises(SystemExit, match="adastate study: the stage 'distill' failed"):
        runner.run_one(study, TASKS[0], console)
    runner.run_one(study, TASKS[0], console)
    assert [(c[0], "--ckpt_path=auto" in c) for c in calls] == [
        ("fit", False), ("fit", True), ("study", False), ("study", False)
    ]  # fmt: skip
    assert all(map(runner.stage_runner(study, here).is_done, arm_stages.stages_of_run(study, TASKS[0])))
    assert not (here / "distill/checkpoints").exists()
    runner.run_one(study, TASKS[0], console)
    assert len(calls) == 4, "what is done is not done again"
