"""The student by itself: its stream."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from adastate.training.prompted_network import PromptedNetwork
from adastate.training.student import Student
from adastate.training.student_rollouts import StudentSample, overlapping
from adastate.types import Memory
from tests.support.rig import Pictures, tiny_student
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


# ---- pictures of their own


class Noted(Pictures):
    """Notes what it decodes; a picture is worth its number in what was decoded, and its latent the same."""

    def __init__(self) -> None:
        super().__init__()
        self.decoded: list[Tensor] = []

    def decode(self, latents: Tensor) -> Tensor:
        self.decoded.append(latents)
        numbers = torch.arange(float(self.video_frames(latents.shape[1])))
        return numbers[None, :, None, None, None].expand(len(latents), -1, 3, 1, 1)

    def encode(self, video: Tensor) -> Tensor:
        assert video.shape[1] == 1, "one picture alone"
        return video[:, :, :1].expand(-1, -1, *SHAPE)


def test_a_stream_that_starts_anew_takes_the_first_of_its_given_frames_as_a_picture(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Frames 6, 7 and 8 are given to the new stream. Of what was decoded up to 6 the last picture is the one."""
    student = tiny_student(anchor="none", state_frames=0, position="absolute", restart_frames=9, restart_overlap=3)
    student.codec, seen = Noted(), list[Tensor]()

    class Seen(PromptedNetwork):
        def __call__(self, x: Tensor, t: Tensor, memory: Memory) -> Tensor:
            seen.append(x)
            return super().__call__(x, t, memory)

    monkeypatch.setattr("adastate.training.student.PromptedNetwork", Seen)
    made = torch.cat([c.content for c in student.stream(PROMPTS, 12)], 1)
    (decoded,) = student.codec.decoded
    assert torch.equal(decoded[:, -1], made[:, 6])
    (given,) = [x for x in seen if torch.equal(x[:, 1:], made[:, 7:9])][-1:]
    assert bool((given[:, 0] == student.codec.video_frames(decoded.shape[1]) - 1).all())


def test_a_clip_from_the_middle_begins_with_the_picture_of_its_own_first_frame() -> None:
    student = tiny_student()
    student.codec = Noted()
    before, after = normal(2, 12, *SHAPE), normal(2, 3, *SHAPE, seed=1)
    x = overlapping(student, before, StudentSample(after, []), picture=True).x
    (decoded,) = student.codec.decoded
    assert torch.equal(decoded[:, -1], before[:, 9]) and torch.equal(x[:, 1:], torch.cat([before[:, 10:], after], 1))
    assert bool((x[:, 0] == student.codec.video_frames(decoded.shape[1]) - 1).all())
