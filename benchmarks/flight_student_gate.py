"""Gate 3 of the flight world: a student's streams compared with its teacher's clips, their speed, and a blind sheet."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from adastate.encoders import Codec
from adastate.evaluation.flight_figures import flight_rows, shares_of
from adastate.evaluation.flight_task import asked_flights
from adastate.evaluation.metrics_table import MetricsRow
from adastate.training.student import Student
from adastate.training.teacher import Teacher
from benchmarks.flight_teacher_gate import generated

AT_ONCE, LATER = 0.9, 0.8
"""Shares of the teacher's figures that a student should reach at 1x and in the last second of 6x."""

DRIFTS = ("exposure_spread", "contrast_spread", "grain_spread")
"""Figures that should not exceed the teacher's: drift of hidden constants within a stretch as long as its clip."""

BLIND, EACH = 10, 9
"""Streams on the blind sheet, and pictures from one shown picture to the next."""


def compare_student(
    student: Student, teacher: Teacher, codec: Codec, seed: int, count: int, steps: int, horizon: int = 6
) -> tuple[dict[str, dict[str, Any]], list[Tensor], list[str]]:
    """Figures of streams, of the teacher's clips and of renders, with shares; rows of pictures and their labels."""

    def clips(prompts: list[str], actions: Tensor) -> Tensor:
        return generated(teacher, codec, asked_flights(seed, count, actions.shape[1]), seed, steps)

    rows = flight_rows(student, count, horizon, seed, clips)
    columns: dict[str, dict[str, Any]] = {row.title.replace("last second", "end"): dict(row.figures) for row in rows}
    columns |= shares_of_teacher(rows)
    once = next(iter(columns.values()))
    once |= {"frames a second": frames_a_second(student, time.perf_counter)}
    once |= {"frames a core-second": frames_a_second(student, time.process_time)}
    pictures, labels = blind(student, seed + 1, horizon)
    return columns, pictures, labels


def shares_of_teacher(rows: list[MetricsRow]) -> dict[str, dict[str, Any]]:
    """The student's figures over the teacher's, at the start and at the end, and how many meet the requirement."""
    found: dict[str, dict[str, Any]] = {}
    for title, mine, theirs, least in (
        ("share, 1x", ("student", "1x"), ("teacher", "1x"), AT_ONCE),
        ("share, end", ("student", "last second"), ("teacher", "last second"), LATER),
    ):
        pair = [[r for r in rows if r.name == name and r.stretch.startswith(part)] for name, part in (mine, theirs)]
        if all(pair):
            own, other = (row[0].figures for row in pair)
            of = shares_of(own, other)
            found[title] = {**of, f"at least {least:.0%}": f"{sum(v >= least for v in of.values())} of {len(of)}"}
            for name in DRIFTS:  # absolute values, as the teacher's median may be zero
                found[title][f"{name} over the teacher's"] = own[name] / max(other[name], 1e-6)
    return found


@torch.no_grad()
def frames_a_second(student: Student, clock: Callable[[], float], chunks: int = 24, warm: int = 6) -> float:
    """Speed of one stream on this process's threads, with decoding: the median chunk once its window is full."""
    task, decoder = asked_flights(0, 1), student.codec.stream()
    spans, began, pictures = list[float](), clock(), 0
    for step in student.stream(task.prompts, chunks * student.chunk_frames, actions=task.actions):
        pictures = decoder.decode(step.content).shape[1]
        now = clock()
        spans.append(now - began)
        began = now
    return pictures / statistics.median(spans[warm:])


@torch.no_grad()
def blind(student: Student, seed: int, horizon: int) -> tuple[list[Tensor], list[str]]:
    """Streams of 6x for a blind rating, every `EACH`-th picture of each, and the answers."""
    task, decoder = asked_flights(seed, BLIND), student.codec.stream()
    made = [
        decoder.decode(step.content)
        for step in student.stream(task.prompts, horizon * student.rollout_frames, seed, actions=task.actions)
    ]
    video = torch.cat(made, 1)[:, EACH // 2 :: EACH].cpu()
    return list(video), [f"{p}    [{c}]" for p, c in zip(task.prompts, task.commands, strict=True)]
