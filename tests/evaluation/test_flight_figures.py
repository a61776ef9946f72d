"""Figures of flights: renders do as they are asked, a student that knows nothing does not."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from adastate.encoders import ResidualCodec, TinyText
from adastate.evaluation.evaluate import evaluate_student
from adastate.evaluation.flight_figures import drift_measure, flight_measure, shares_of
from adastate.evaluation.flight_task import asked_flights
from adastate.models.video_network import Size
from adastate.stream import StreamSpec
from adastate.training.student import Student
from datamodules.worlds.flight.voxel_render import render_flights

SMALL = Size(16, 1, 2, 16, 32, text_width=64, text_tokens=24, time_embedding_dim=16, actions=8)


def test_shares_are_of_what_is_better_when_larger() -> None:
    mine = {"turn_sign": 0.9, "tilt_error": 9.0, "biome": 0.4, "match_across_latents": 0.6, "time": 1.0}
    theirs = {"turn_sign": 1.0, "tilt_error": 1.0, "biome": 0.8, "match_across_latents": 0.8, "time": 0.0}
    assert shares_of(mine, theirs) == pytest.approx({"turn_sign": 0.9, "biome": 0.5, "match_across_latents": 0.75})


@pytest.mark.slow
def test_renders_do_as_they_are_asked_whole_and_at_their_end() -> None:
    task = asked_flights(5, 6)
    video = render_flights(task.flights, list(task.poses))
    for part, settled in ((video, 6), (video[:, -9:], 0)):
        found = flight_measure(part, task, settled, 3)
        assert found["tilt_sign"] == 1 and found["turn_sign"] > 0.7 and found["tilt_error"] < 1.5
        assert found["time"] > 0.9 and found["match_across_latents"] > 0.7
        wrong = flight_measure(part.flip(-1), task, settled, 3)
        assert wrong["tilt_sign"] == wrong["turn_sign"] == 0
        held = flight_measure(part[:, -1:].expand_as(part), task, settled, 3)
        assert held["turn_sign"] == 0 and held["match_across_latents"] > found["match_across_latents"]
    assert abs(drift_measure(video, 8)["exposure_drift"]) < 0.05


@pytest.mark.slow
def test_rows_of_a_student_its_teacher_and_renders() -> None:
    torch.manual_seed(0)
    student = Student(SMALL, ResidualCodec(None), TinyText(24, 64), StreamSpec(1, 3), (8, 8), 7).eval()
    told: list[tuple[int, ...]] = []

    def teacher(prompts: list[str], actions: Tensor | None) -> Tensor:
        assert actions is not None
        told.append(tuple(actions.shape))
        return torch.rand(len(prompts), 21, 3, 64, 64) * 2 - 1

    found = evaluate_student(student, 3, 2, None, 5, teacher=teacher, world="flight")
    assert [row.title for row in found] == [
        "student, 1x", "student, last second of 2x", "holds still, 1x", "holds still, last second", "teacher, 1x",
        "teacher, last second", "renders, 1x", "renders, last second",
    ]  # fmt: skip
    assert told == [(3, 7, 8)]
    last = found[1].figures
    assert {"exposure_drift", "grain_since_the_beginning", "turn_sign", "biome"} <= set(last)
