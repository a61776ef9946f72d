"""Steering, scene, coherence and drift of a student's flights, early and late, beside its teacher's and renders.

Metrics of the long rollout are those of its last pictures, and are compared with the same metrics of as many pictures
of the teacher's clip. Drift is that of the camera's exposure, contrast and grain, which no prompt states: how fast they
change within a stretch as long as a clip of the teacher, and how far they are from where they began.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from adastate.evaluation.flight_task import Asked, asked_flights, scenes, steered
from adastate.evaluation.metrics_table import Figures, MetricsRow
from adastate.evaluation.real_clips import through_codec
from adastate.evaluation.rollout_ends import stream_ends
from adastate.metrics.flight_drift import drift_rates
from adastate.metrics.flight_picture import match_across
from adastate.metrics.flight_scene import hidden_constants
from adastate.stream import StreamSpec
from adastate.training.student import Student
from datamodules.worlds.flight.voxel_render import render_flights

LATENTS = 3
"""Latent frames at the end that are measured: a little more than a second."""


STILL = "holds still"
"""The baseline's name in the table."""


def flight_measure(video: Tensor, task: Asked, settled: int, group: int) -> Figures:
    """Steering, scene and coherence of `video` [B, T, 3, h, w]; means over the clips, for tilts the median error."""
    flown = steered(video, task, settled)
    turns = max(1, flown["turns asked for"])
    return {
        "turn_sign": flown["turn sign right"] / turns,
        "tilt_sign": flown["tilt sign right"] / turns,
        "tilt_within_3_degrees": flown["tilt within 3 deg, share"],
        "tilt_error": flown["tilt, median error (deg)"],
        **scenes(video, task),
        "match_across_latents": float(match_across(video, group).across.mean()),
    }


def drift_measure(video: Tensor, fps: int) -> Figures:
    """Rate of change of exposure, contrast and grain per second, over the clips for which it is known.

    `_drift` is the median over the clips, which shows accumulating errors that they have in common; `_spread` is the
    median absolute value, which includes the noise of the measure.
    """
    found: Figures = {}
    for name, rate in drift_rates(video, fps).items():
        found |= {f"{name}_drift": float(rate.nanmedian()), f"{name}_spread": float(rate.abs().nanmedian())}
    return found


def away_from_beginning(first: Tensor, last: Tensor) -> Figures:
    """Median distance of exposure, contrast (as log ratio) and grain of `last` from those of `first`."""
    early, late = hidden_constants(first), hidden_constants(last)
    found = {name: (late[name] / early[name].clamp(min=1e-3)).log() for name in ("exposure", "contrast")}
    found["grain"] = late["grain"] - early["grain"]
    return {f"{name}_since_the_beginning": float(off.median()) for name, off in found.items()}


def flight_rows(
    student: Student,
    count: int,
    horizon: int,
    seed: int,
    teacher: Callable[[list[str], Tensor], Tensor] | None = None,
    spec: StreamSpec | None = None,
    name: str = "student",
) -> list[MetricsRow]:
    """Rows of a student's streams of `horizon` training horizons, of its teacher's clips and of renders; and of the
    last picture of the first horizon, held: the score of a frozen stream.

    Args:
        teacher: returns decoded clips for prompts and actions `[B, F, 8]`; None leaves it out.
        spec: another stream than the student's own.
    """
    codec, frames = student.codec, student.rollout_frames
    task = asked_flights(seed, count, frames)
    once, group = codec.video_frames(frames), codec.video_frames(1)
    end = LATENTS * group
    made = stream_ends(student, task.prompts, horizon * frames, seed, once, once, spec, task.actions)
    found = [MetricsRow(name, "1x", _whole(made.first[:, :once], task, group, codec.fps))]
    if made.pictures > once:
        last = {
            **_ending(made.last, task, end, group, codec.fps),
            **away_from_beginning(made.first[:, :end], made.last[:, -end:]),
        }
        found.append(MetricsRow(name, f"last second of {made.pictures / once:.0f}x", last))
    clips = {STILL: made.first[:, once - 1 : once].expand(-1, once, -1, -1, -1)}
    if teacher is not None:
        clips["teacher"] = teacher(task.prompts, task.actions)
    clips["renders"] = torch.cat(
        [through_codec(codec, part, student.device) for part in render_flights(task.flights, list(task.poses)).split(8)]
    )
    for title, video in clips.items():
        found.append(MetricsRow(title, "1x", _whole(video, task, group, codec.fps)))
        found.append(MetricsRow(title, "last second", _ending(video, task, end, group, codec.fps)))
    return found


def _whole(video: Tensor, task: Asked, group: int, fps: int) -> Figures:
    return flight_measure(video, task, 2 * group, group) | drift_measure(video, fps)


def _ending(video: Tensor, task: Asked, end: int, group: int, fps: int) -> Figures:
    return flight_measure(video[:, -end:], task, 0, group) | drift_measure(video, fps)


def shares_of(mine: Figures, theirs: Figures) -> Figures:
    """Ratios of metrics for which larger is better, to those of another; metrics that are 0 there are left out."""
    larger = ("turn_sign", "tilt_sign", "tilt_within_3_degrees", "time", "weather", "biome", "match_across_latents")
    return {name: mine[name] / theirs[name] for name in larger if name in mine and theirs.get(name)}
