"""Where attention goes."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from adastate.training.student import Student
from tests.support.rig import tiny_student


def indifferent(**stream: Any) -> Student:
    """Its queries are zero, so attention is uniform and shares are counts of frames."""
    student = tiny_student(**stream)
    with torch.no_grad():
        for block in student.ema.net.blocks:
            block.self_attn.q.weight.zero_()
            block.self_attn.q.bias.zero_()
    return student


FRAMES = {  # (state, past, own) frames that a chunk's queries see, chunk by chunk
    "defaults": ({}, [(0, 0, 4), (1, 3, 4), (1, 3, 4)]),
    "previous": ({"state_visibility": "previous"}, [(0, 0, 3), (1, 3, 3), (1, 3, 3)]),
    "replace": ({"state_visibility": "replace"}, [(0, 0, 4), (0, 3, 4), (0, 3, 4)]),
    "wide": ({"state_frames": 3, "past_frames": 6}, [(0, 0, 6), (3, 3, 6), (3, 6, 6)]),
    "barred": ({"clean_pass_sees_old_state": False}, [(0, 0, 4), (1, 3, 4), (1, 3, 4)]),
    "static": ({"anchor": "static"}, [(0, 0, 3), (1, 2, 3), (1, 3, 3)]),
}


@pytest.mark.parametrize("name", FRAMES)
def test_shares_of_uniform_attention_are_counts(name: str) -> None:
    """Each chunk is measured over its own passes alone."""
    stream, frames = FRAMES[name]
    shares = indifferent(**stream).attention_share(["red ball"], 9)
    for kind, counts in zip(("state", "past", "own"), zip(*frames, strict=True), strict=True):
        assert shares[kind] == pytest.approx([n / sum(f) for n, f in zip(counts, frames, strict=True)], abs=1e-5), kind


def test_shares_add_up_and_measuring_changes_nothing() -> None:
    student = tiny_student()
    before = [c.content for c in student.stream(["red ball"], 9)]
    shares = student.attention_share(["red ball"], 9)
    assert [sum(parts) for parts in zip(*shares.values(), strict=True)] == pytest.approx([1, 1, 1], abs=1e-5)
    assert shares["own"][2] != pytest.approx(4 / 8, abs=1e-3), "this one is not indifferent"
    after = [c.content for c in student.stream(["red ball"], 9)]
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
