"""Previews of networks that can be steered fly one schedule, and their strips tell it."""

from __future__ import annotations

import json
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from adastate.stream.action_schedule import parse_actions
from adastate.training.teacher import Teacher
from callbacks import Rollouts
from callbacks.previews import preview_writer
from callbacks.previews.preview_writer import PreviewFiles
from callbacks.previews.render import Preview, render_preview
from tests.support.rig import tiny_distill, tiny_student
from tests.support.tiny import GRID, SIZE, randomise

PROMPTS = ["red ball", "slow snow"]
CUES = parse_actions(["0s: slower", "0.8s: a+w"])
"""A chunk of the rig's codec has 6 frames at 8 a second, so the second cue begins within the second chunk."""


def shown(module: Any, cues: Any = CUES, horizon: int = 1) -> Preview:
    made = render_preview(module.eval(), PROMPTS, horizon, 0, nullcontext, attention=False, keep=True, cues=cues)
    assert made is not None
    return made


def test_a_student_is_previewed_as_it_is_steered() -> None:
    module = tiny_student(actions=3)
    with_actions, without = shown(module), shown(module, ())
    assert module.codec.fps == 8 and with_actions.chunks[0].shape[1] == 6
    assert with_actions.steered == ["s", "s wa"]
    assert without.steered == [] and not torch.equal(with_actions.chunks[1], without.chunks[1])
    assert shown(module, horizon=2).steered[2:] == ["wa", "wa"], "what is held, holds"


def test_a_teacher_and_a_distillation_are_too() -> None:
    distill = tiny_distill(actions=4)
    assert shown(distill).steered == shown(distill.student).steered
    student = distill.student
    teacher = Teacher(replace(SIZE, actions=4), student.codec, student.text, GRID, rollout_frames=6, average=None)
    randomise(teacher.net)
    assert len(shown(teacher).steered) == 1
    assert not torch.equal(shown(teacher).chunks[0], shown(teacher, ()).chunks[0])


def test_a_network_that_cannot_be_steered_is_previewed_as_ever() -> None:
    module = tiny_student()
    assert shown(module).steered == []
    assert all(torch.equal(a, b) for a, b in zip(shown(module).chunks, shown(module, ()).chunks, strict=True))


def test_the_strip_and_the_index_tell_how_it_was_steered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[Any] = []
    real = preview_writer.strip

    def noted(*args: Any, **kwargs: Any) -> Any:
        told.append(kwargs["steered"])
        return real(*args, **kwargs)

    monkeypatch.setattr(preview_writer, "strip", noted)
    preview = shown(tiny_student(actions=3))
    PreviewFiles(tmp_path).write([preview])
    (entry,) = map(json.loads, (tmp_path / preview_writer.INDEX).read_text().splitlines())
    assert told == [preview.steered] and entry["steered"] == preview.steered


def test_a_schedule_is_read_when_the_callback_is_made() -> None:
    assert [cue.seconds for cue in Rollouts(PROMPTS, actions=["0s: straight", "2s: left"]).cues] == [0, 2]
    assert Rollouts(PROMPTS).cues == []
    with pytest.raises(ValueError, match="asks for 'up'"):
        Rollouts(PROMPTS, actions=["up"])
