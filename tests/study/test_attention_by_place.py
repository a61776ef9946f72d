"""Attention place by place: counts for an indifferent network, and the sums of the other probe for any."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from adastate.stream.attention_probe import AttentionShare
from adastate.study.attention_by_place import AttentionByPlace, AttentionShares, measure_attention_by_place
from adastate.training.student import Student
from tests.support.rig import tiny_student


def indifferent(**stream: object) -> Student:
    """Its queries are zero, so attention is uniform over the visible frames."""
    student = tiny_student(**stream)
    with torch.no_grad():
        for block in student.ema.net.blocks:
            block.self_attn.q.weight.zero_()
            block.self_attn.q.bias.zero_()
    return student


def looked(student: Student, frames: int, first: int) -> AttentionByPlace:
    probe = AttentionByPlace(len(student.spec.timesteps), first)
    for _ in student.stream(["red ball"], frames, probe=probe):
        pass
    return probe


def test_indifferent_attention_gives_every_frame_the_same() -> None:
    probe = looked(indifferent(chunk_frames=1, past_frames=2), 8, 3)
    assert probe.places == [("anchor", 0), ("past", -2), ("past", -1), ("state", 0), ("own", 0)]
    shares = probe.shares()
    assert shares.shape == (2, 3, 5), "layers, two levels and the clean pass, places"
    assert shares[-1, -1].isnan().all(), "the last layer's clean pass needs no attention"
    assert torch.allclose(shares.nan_to_num(0.2), torch.full_like(shares, 0.2), atol=1e-5)


def test_frames_that_are_not_seen_have_no_share() -> None:
    student = indifferent(chunk_frames=1, past_frames=2, state_visibility="replace")
    shares = looked(student, 8, 3).shares()[:, :2]
    assert shares[:, :, 0].abs().max() == 0, "the old state"
    assert torch.allclose(shares[:, :, 1:], torch.full((2, 2, 4), 0.25), atol=1e-5)


@pytest.mark.parametrize("anchor", [{}, {"anchor": "static"}, {"anchor": "none", "state_frames": 0}])
def test_places_add_up_to_the_kinds_of_the_other_probe(anchor: dict[str, object]) -> None:
    student = tiny_student(chunk_frames=1, past_frames=2, **anchor)
    shares, places = looked(student, 9, 8).shares(), looked(student, 9, 8).places
    other = AttentionShare()
    for _ in student.stream(["red ball"], 9, probe=other):
        pass
    for kind, mine in (("state", ("anchor",)), ("past", ("past",)), ("own", ("state", "own"))):
        ours = shares[:, :2, [i for i, p in enumerate(places) if p[0] in mine]].sum(-1).mean()
        assert float(ours) == pytest.approx(other.shares[kind][8], abs=1e-5), kind


def test_levels_are_told_apart() -> None:
    shares = looked(tiny_student(chunk_frames=1, past_frames=2), 8, 3).shares()
    assert not torch.allclose(shares[:, 0], shares[:, 1], atol=1e-4), "two levels look alike only by mistake"
    assert not torch.allclose(shares[0], shares[1], atol=1e-4), "and so do two layers"


def test_windows_of_other_sizes_are_measured_where_they_are_possible() -> None:
    found = measure_attention_by_place(tiny_student(chunk_frames=1, past_frames=2), ["red ball"], [1, 3], 2, 0)
    assert [(a.past_frames, len(a.places)) for a in found] == [(1, 4), (3, 6)]
    growing = measure_attention_by_place(
        tiny_student(past_frames=3, anchor="ema", state_frames=3, decay=[0.9]), ["red ball"], [2, 6], 1, 0
    )
    assert [a.past_frames for a in growing] == [6], "whole chunks only"


def test_excess_is_the_share_over_an_equal_one() -> None:
    a = AttentionShares(1, ("anchor 0", "past -1", "own 0", "own 1"), np.array([[[0.5, 0.1, 0.2, 0.2], [0, 0, 0, 0]]]))
    assert a.kind("anchor") == pytest.approx(0.5) and a.excess("anchor") == pytest.approx(2)
    assert a.excess("own") == pytest.approx(0.8) and np.isnan(a.excess("state"))
