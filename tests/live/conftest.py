"""Models so small that a session of hundreds of chunks takes a second."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from adastate.config import systems
from adastate.inference.student_source import StudentSource
from adastate.live.model import LiveModel
from adastate.live.session import Session
from tests.support.rig import tiny_student

TEXT = {"class_path": "adastate.encoders.TinyText", "init_args": {}}
CONFIG = {"model": {"init_args": {"student": {"init_args": {"text": TEXT}}}}, "data": {"init_args": {"kind": "none"}}}


FEW = (None, "infinity_rope", "rolling_forcing")
"""Systems that differ most in what they keep."""

EVERY = [
    pytest.param(name, marks=[] if name in FEW else [pytest.mark.slow]) for name in (None, *systems.system_names())
]
"""All of them; those that resemble one of FEW in the slow tests."""


class Remembering:
    """A stream decoder whose pictures depend on all latents before, as those of causal video codecs do."""

    def __init__(self, codec: Any) -> None:
        self.codec, self.memory = codec, dict[str, Any]()

    def decode(self, latents: Tensor) -> Tensor:
        before, mixed = self.memory.get("before", 0.0 * latents[:, :1]), []
        for frame in latents.split(1, 1):
            before = 0.5 * before + frame
            mixed.append(before)
        self.memory = {"before": before}
        return self.codec.decode(torch.cat(mixed, 1))  # type: ignore[no-any-return]


def live_model(actions: int = 0, memory: bool = True, **stream: Any) -> LiveModel:
    student = tiny_student(actions=actions, **stream).eval().requires_grad_(False)
    if memory:
        codec: Any = student.codec
        codec.stream = lambda: Remembering(codec)
    return LiveModel(student, StudentSource(CONFIG, Path("tiny.safetensors"), Path("runs/tiny"), False))


@pytest.fixture(scope="module")
def model() -> LiveModel:
    """Steered, with a decoder that has a memory."""
    return live_model(actions=4, chunk_frames=1, past_frames=3)


@pytest.fixture
def session(model: LiveModel) -> Callable[..., Session]:
    def made(prompt: str = "a red ball", seed: int = 0, system: str | None = None, **options: Any) -> Session:
        return Session(model, prompt, seed, system, **options)

    return made
