"""Digests, in the record of a run, of everything that determines its numbers.

A study that is continued elsewhere, without its run folders, uses them to recognise the records of its own runs.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from adastate.encoders.tiny import SHIPPED as CODECS
from adastate.runtime.plain_json import load_json
from adastate.study.arm_stages import StudySetting
from adastate.study.table import Beginning, Task
from adastate.weights.builtin import BUILTIN

NOT_OF_A_RUN = ("groups", "arms", "suffix", "codec_steps", "teacher_steps", "teacher_clips")
"""Fields of a budget that select runs, or that describe how weights with digests of their own were trained."""


def made_from(setting: StudySetting, task: Task) -> dict[str, str]:
    """Digests of codec and teacher, of the initialisation, and of everything that the table defines for the run.

    The initialisation is left out if its file does not exist.
    """
    arm, init = task.arm, setting.init(task.beginning)
    budget = {name: value for name, value in asdict(setting.budget).items() if name not in NOT_OF_A_RUN}
    choices: dict[str, Any] = {"budget": budget, "stream": dict(arm.stream), "model": dict(arm.model)}
    choices |= {"taught": dict(arm.taught), "recipes": arm.recipes, "student": arm.student, "seed": setting.seed}
    choices |= {"rope": arm.rope_max_frames, "experiments": arm.experiments, "world": asdict(setting.known)}
    choices["world"].pop("weights")
    told = {
        "teacher": _digest(BUILTIN.get(setting.teacher_weights, Path(setting.teacher_weights)).read_bytes()),
        "codec": _digest(CODECS.get(setting.codec_weights, Path(setting.codec_weights)).read_bytes()),
        "choices": _digest(json.dumps(choices, sort_keys=True).encode()),
    }
    return told | ({"initialisation": _digest(init.read_bytes())} if init.is_file() else {})


def recorded_elsewhere(setting: StudySetting, tasks: Sequence[Task], folder: Path) -> list[Task]:
    """The runs whose records are in `folder`, and which have no run folder here.

    Runs of one seed are compared with each other and start from one initialisation, so they count only if all of
    `tasks` that start from it have records that name the same one.
    """
    found: list[Task] = []
    by_start: dict[Beginning, list[Task]] = {}
    for task in tasks:
        by_start.setdefault(task.beginning, []).append(task)
    for runs in by_start.values():
        told = [_told(setting, task, folder) for task in runs]
        if None not in told and len(set(told)) == 1 and not any(task.folder(setting.root).exists() for task in runs):
            found += runs
    return found


def _told(setting: StudySetting, task: Task, folder: Path) -> str | None:
    """Digest of the initialisation in a run's record; None if there is no record, or if it is of another run."""
    file = folder / f"{task.arm.name}-seed{task.seed}.json"
    if not file.is_file():
        return None
    then = dict(load_json(file.read_text(encoding="utf-8")).get("made_from") or {})
    now = made_from(setting, task)
    start = then.pop("initialisation", None)
    now.pop("initialisation", None)
    return start if then == now else None


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:12]
