"""Gone on with, a run has the rates that it is told, and is refused what would make it another run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from callbacks.checkpointing.changed_config import CONFIG, changes
from callbacks.checkpointing.resume import newest_checkpoint
from tests.callbacks.checkpointing.test_checkpoints import train

CONFIGURATION = """
seed_everything: 0
model:
  class_path: adastate.training.distill.Distill
  init_args:
    student:
      class_path: adastate.training.student.Student
      init_args: {size: {width: 32, layers: 1}, stream: {past_frames: 3}, weights: '@run/init.safetensors'}
    optimizer: {student_lr: 1.0e-3, critic_lr: 1.0e-3, betas: [0.0, 0.99], weight_decay: 0.01}
    iterations: 6
    global_batch: 4
    seed: 0
data: {class_path: datamodules.prompts.PromptData, init_args: {batch: 4, seed: 0, file: '@run/prompts.txt', workers: 0}}
trainer: {default_root_dir: '@run/distill', devices: 1}
"""


def write(path: Path, **changed: Any) -> Path:
    """The configuration with other values at some of its keys, whose dots are written __."""
    told = yaml.safe_load(CONFIGURATION)
    for key, value in changed.items():
        node: Any = told
        *way, last = key.split("__")
        for part in way:
            node = node[part] if part in node else node["init_args"][part]
        (node.get("init_args", node) if isinstance(node, dict) and last not in node else node)[last] = value
    path.write_text(yaml.safe_dump(told))
    return path


RATES = {"model__optimizer__student_lr": 1.2e-6, "model__optimizer__betas": [0.5, 0.9]}
FREE = {"model__iterations": 9, "trainer__devices": 2, "model__student__weights": "b.safetensors"}
KEPT = {
    "model__student__stream__past_frames": 6, "model__seed": 1, "seed_everything": 1, "model__global_batch": 8,
    "data__seed": 1, "data__file": "other.txt",
}  # fmt: skip


def test_an_older_run_that_names_its_folder_is_the_same_run(tmp_path: Path) -> None:
    then, now = write(tmp_path / "then"), write(tmp_path / "now")
    then.write_text(then.read_text().replace("@run", "/gone/runs/mine"))
    assert not changes(then, now).told
    then.write_text(then.read_text().replace("/gone/runs/mine/prompts.txt", "/gone/runs/other/prompts.txt"))
    assert "data.file: /gone/runs/other/prompts.txt -> @run/prompts.txt" in changes(then, now).refused


@pytest.mark.parametrize("key", [*RATES, *FREE, *KEPT])
def test_what_is_taken_over_what_is_told_and_what_is_refused(tmp_path: Path, key: str) -> None:
    value, name = {**RATES, **FREE, **KEPT}[key], key.replace("__", ".")
    then, now = write(tmp_path / "then"), write(tmp_path / "now", **{key: value})
    found = changes(then, now)
    (line,) = found.told
    assert line.startswith(f"{name}: ") and line.endswith(f"-> {value}")
    assert bool(found.rates) == (key in RATES) and bool(found.refused) == (key in KEPT)
    if key in KEPT:
        assert line in found.refused and f"--allow_change={name}" in found.refused
        for allowed in (name, name.rpartition(".")[2]):
            assert not changes(then, now, [allowed]).refused


NEW = {  # keys with the defaults of their classes, which an earlier version did not know
    "model__replay": False,
    "model__student__seed": 0,
    "model__student__stream__position": "slot",
    "data__pairs": False,
    "trainer__detect_anomaly": False,
}


@pytest.mark.parametrize("key", NEW)
def test_what_an_earlier_version_did_not_say_was_as_the_default_has_it(tmp_path: Path, key: str) -> None:
    then = write(tmp_path / "then")
    assert changes(then, write(tmp_path / "now", **{key: NEW[key]})).told == []
    other = {str: "absolute", bool: True, int: 1}[type(NEW[key])]
    (line,) = changes(then, write(tmp_path / "now", **{key: other})).told
    assert line == f"{key.replace('__', '.')}: {NEW[key]} -> {other}"


def test_another_width_is_refused_whatever_is_allowed(tmp_path: Path) -> None:
    then = write(tmp_path / "then")
    found = changes(then, write(tmp_path / "now", model__student__size__width=64), ["size", "model"])
    assert "of another network (model.student.size.width: 32 -> 64): use its size" in found.refused
    assert changes(then, tmp_path / "none").told == [] == changes(tmp_path / "none", then).told


def test_without_a_global_batch_it_is_all_processes_together(tmp_path: Path) -> None:
    told = yaml.safe_load(CONFIGURATION)
    del told["model"]["init_args"]["global_batch"]
    (tmp_path / "then").write_text(yaml.safe_dump(told))
    told["data"]["init_args"]["batch"] = 2
    (tmp_path / "now").write_text(yaml.safe_dump(told))
    assert not changes(tmp_path / "then", tmp_path / "now", worlds=(1, 2)).refused
    assert "model.global_batch: 4 -> 2" in changes(tmp_path / "then", tmp_path / "now").refused


def test_rates_of_the_command_line_are_in_force(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write(tmp_path / CONFIG)
    train(tmp_path, 2)
    state = newest_checkpoint(tmp_path / "checkpoints")
    _, same = train(tmp_path, 3, resume=state)
    rate = same.optimizers[0].param_groups[0]["lr"]
    write(tmp_path / CONFIG, model__optimizer__student_lr=2e-4, model__optimizer__betas=[0.5, 0.9])
    with caplog.at_level("INFO"):
        options = {"student_lr": 2e-4, "betas": (0.5, 0.9)}
        _, changed = train(tmp_path, 4, resume=newest_checkpoint(tmp_path / "checkpoints"), module=options)
    student, critic = (optimizer.param_groups[0] for optimizer in changed.optimizers)
    assert student["lr"] == pytest.approx(rate / 5) and critic["lr"] == pytest.approx(rate)
    assert tuple(student["betas"]) == (0.5, 0.9) and student["initial_lr"] == 2e-4
    assert "resumes with another configuration: model.optimizer.betas" in caplog.text
    write(tmp_path / CONFIG, model__seed=1)
    with pytest.raises(ValueError, match=r"model.seed: 0 -> 1.*--allow_change=model.seed"):
        train(tmp_path, 5, resume=newest_checkpoint(tmp_path / "checkpoints"))
    told = yaml.safe_load((tmp_path / CONFIG).read_text())["model"]["init_args"]
    assert (told["seed"], told["optimizer"]["student_lr"]) == (0, 2e-4), "what is refused leaves no trace"
