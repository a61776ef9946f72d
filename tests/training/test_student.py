"""The student by itself: its stream."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from adastate.training.student import Student
from tests.support.rig import tiny_student
from tests.support.tiny import SHAPE, normal

PROMPTS = ["red ball", "slow snow"]


def frames(student: Student, prompts: list[str], **kwargs: Any) -> Tensor:
    return torch.cat([c.content for c in student.stream(prompts, 6, **kwargs)], 1)


# ---- streaming


def test_a_row_of_a_stream_is_its_own() -> None:
    """Row i's noise is that of (seed, i), its prompt its own."""
    student = tiny_student()
    both = frames(student, PROMPTS)
    assert both.shape == (2, 6, *SHAPE)
    assert torch.allclose(both[:1], frames(student, PROMPTS[:1]), atol=1e-5)
    assert not torch.allclose(both[1:], frames(student, PROMPTS[1:]), atol=1e-2), "another row, another noise"
    assert not torch.allclose(both, frames(student, PROMPTS, seed=1), atol=1e-2)
    assert not torch.allclose(both[:1], frames(student, PROMPTS[1:]), atol=1e-3), "another prompt"


def test_a_longer_stream_begins_with_the_shorter() -> None:
    student = tiny_student()
    longer = torch.cat([c.content for c in student.stream(PROMPTS, 9)], 1)
    assert torch.equal(longer[:, :6], frames(student, PROMPTS))


@pytest.mark.parametrize("outside", [True, False])
def test_the_consumer_keeps_his_grad_mode(outside: bool) -> None:
    with torch.set_grad_enabled(outside):
        for chunk in tiny_student().stream(PROMPTS, 6):
            assert torch.is_grad_enabled() == outside
            assert not chunk.content.requires_grad
    assert torch.is_grad_enabled()


@pytest.mark.parametrize("given", [1, 3, 4])
def test_given_frames_stand_before_the_stream(given: int) -> None:
    student = tiny_student()
    chunks = list(student.stream(PROMPTS, 6, given=normal(2, given, *SHAPE)))
    assert [(c.index, c.start) for c in chunks] == [(0, given), (1, given + 3)]
    other = list(student.stream(PROMPTS, 6, given=normal(2, given, *SHAPE, seed=1)))
    assert not torch.allclose(chunks[0].content, other[0].content, atol=1e-3), "they are seen"


def test_impossible_lengths() -> None:
    with pytest.raises(ValueError, match="7 frames are not a multiple of the chunk of 3; 6 would be"):
        list(tiny_student().stream(PROMPTS, 7))
    with pytest.raises(ValueError, match="2 given frames do not divide into blocks of 3"):
        list(tiny_student().stream(PROMPTS, 6, given=normal(2, 2, *SHAPE)))
    with pytest.raises(ValueError, match="6 frames are not a multiple of the chunk of 4"):
        tiny_student(chunk_frames=4)
