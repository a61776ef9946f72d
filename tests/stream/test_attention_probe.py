"""Where attention goes."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from adastate.stream import attention_probe
from adastate.training.student import Student
from tests.support.rig import tiny_student
from tests.support.tiny import normal


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


@pytest.mark.parametrize("hidden", [None, 4])
@pytest.mark.parametrize("at_once", [2, 512])
def test_shares_are_those_of_the_scaled_softmax(
    hidden: int | None, at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By hand, over frames [anchor | 3 past | state | 3 own] of 2 tokens; the mean of the passes of a chunk."""
    monkeypatch.setattr(attention_probe, "QUERIES", at_once)
    seen = tuple(frame != hidden for frame in range(8))
    places = SimpleNamespace(anchor=(0,), past=(1, 2, 3), state=(0,), chunk=(4, 5, 6))
    share = attention_probe.AttentionShare()
    share.cache = SimpleNamespace(anchor=True, chunks=0, latest=SimpleNamespace(places=places))  # type: ignore[assignment]

    def by_hand(q: Tensor, k: Tensor) -> Tensor:
        scores = torch.einsum("bqnk,bjnk->bnqj", q[:, 2:], k) / 4**0.5
        scores = scores.masked_fill(~torch.tensor(seen).repeat_interleave(2), -torch.inf)
        each = scores.softmax(-1).mean((0, 1, 2)).unflatten(0, (8, 2)).sum(1)
        return torch.stack([each[0], each[1:4].sum(), each[4:].sum()])

    passes = [(3 * normal(2, 8, 3, 4, seed=i), normal(2, 16, 3, 4, seed=9 + i)) for i in range(2)]
    for layer, (q, k) in enumerate(passes):
        share(layer, q, k, None if hidden is None else (seen,) * 4)
    expected = torch.stack([by_hand(q, k) for q, k in passes]).mean(0)
    assert [share.shares[kind][0] for kind in attention_probe.KINDS] == pytest.approx(expected.tolist(), abs=1e-6)
