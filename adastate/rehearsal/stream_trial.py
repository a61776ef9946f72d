"""One trial of streaming on the simulated machine: a stream with its decoder, or live sessions in shared passes."""

from __future__ import annotations

from typing import Any

import lightning.pytorch as pl
import torch

from adastate.config.compose import build
from adastate.config.schema import ConfigError
from adastate.rehearsal.fit_trial import Trial, ending, quietly
from adastate.rehearsal.pretended_machine import Cluster, forget_data, pretended_machine
from adastate.rehearsal.shallow import channels_of
from adastate.rehearsal.stand_ins import without_files

STEADY = 2
"""Chunks that are measured, after those that fill the window."""

PROMPT = "a slow flight over a green meadow"


def student_node(lightning: dict[str, Any]) -> dict[str, Any]:
    """The student of a stage's configuration.

    Raises:
        ConfigError: the stage has none.
    """
    model: dict[str, Any] = lightning.get("model") or {}
    if str(model.get("class_path")).endswith(".Student"):
        return model
    found = (model.get("init_args") or {}).get("student")
    if not isinstance(found, dict):
        raise ConfigError("this stage has no student that streams: use conf/stages/distill.yaml or init.yaml")
    return found


def stream_trial(lightning: dict[str, Any], cluster: Cluster, sessions: int) -> Trial:
    """Streams with the student of a composed configuration; `sessions` live ones, or 0 for a single stream."""
    with pretended_machine(cluster) as recorder, without_files(channels_of(lightning)), quietly():
        trial = Trial(recorder, parts=1, ran=STEADY)
        with ending(trial), torch.no_grad():
            recorder.enter("build")
            with recorder.building_run():
                student: Any = build(student_node(lightning), pl.LightningModule)
                forget_data(student, recorder.fake)
                trial.host = sum(p.numel() * p.element_size() for p in student.parameters())
            student = student.eval().to(torch.device("cuda", 0))
            recorder.restart()
            (_live if sessions else _one)(student, trial, sessions)
        recorder.enter("end")
    return trial


def _filling(student: Any) -> int:
    """Number of chunks until a stream's window is full."""
    spec = student.spec
    return 2 + (spec.past_frames or student.rollout_frames) // spec.chunk_frames


def _one(student: Any, trial: Trial, sessions: int) -> None:
    recorder, warm = trial.record, _filling(student)
    decoder = student.codec.stream()
    stream = student.stream([PROMPT], (warm + STEADY + 1) * student.chunk_frames)
    for index in range(warm + STEADY):
        steady = index >= warm
        with recorder.within("chunk" if steady else "warm-up"):
            chunk = next(stream)
        with recorder.within("decode" if steady else "warm-up"):
            decoder.decode(chunk.content)
        recorder.enter("between")


def _live(student: Any, trial: Trial, sessions: int) -> None:
    from adastate.live.batch import SessionBatch
    from adastate.live.model import LiveModel
    from adastate.live.session import Session

    recorder, warm = trial.record, _filling(student)
    source: Any = None  # only used for prompts and the weights' names
    model = LiveModel(student, source)
    every = [Session(model, f"{PROMPT} {i}", seed=i, history=2) for i in range(sessions)]
    batch = SessionBatch()
    for index in range(warm + STEADY):
        with recorder.within("chunk and decode" if index >= warm else "warm-up"):
            for step in batch.step(every):
                if isinstance(step, Exception):
                    raise step
        recorder.enter("between")
