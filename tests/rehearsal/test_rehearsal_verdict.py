"""What trials of few layers and micro batches tell of an iteration."""

from __future__ import annotations

from torch._subclasses.fake_tensor import FakeTensorMode

from adastate.rehearsal.accelerators import ACCELERATORS
from adastate.rehearsal.fit_trial import Trial
from adastate.rehearsal.recorder import DeviceRecorder
from adastate.rehearsal.rehearsal_verdict import RehearsalVerdict, fill_verdict
from adastate.rehearsal.training_phases import ALL_PROMPTS


def test_copies_are_those_of_all_micro_batches_but_a_text_encoder_comes_once() -> None:
    record = DeviceRecorder(FakeTensorMode())
    for phase, line, copies in ((ALL_PROMPTS, "encoder.py:1", 1), ("student: scores", "scores.py:2", 2)):
        record.entries[phase] = copies
        record.copies[phase, line], record.copied[phase, line] = copies, 100 * copies
    trial = Trial(record=record, parts=8, ran=2)
    about = ACCELERATORS["h100"]
    verdict = RehearsalVerdict("distill", about, ranks=8, rank=0, parts=8, depths=[2])
    found = fill_verdict(verdict, [trial], [{2: 2}], "h100", gpus=8)
    assert {event.phase: (event.times, event.bytes) for event in found.copies} == {
        ALL_PROMPTS: (1.0, 100.0),
        "student: scores": (8.0, 800.0),
    }
