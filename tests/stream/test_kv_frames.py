"""Some of the cached frames are what indexing would give, whether they are a view or a copy."""

from __future__ import annotations

from itertools import permutations

import pytest
import torch

from adastate.stream.kv_frames import TensorFrames
from tests.support.tiny import normal

FRAMES = TensorFrames((normal(2, 8, 1, 2),), (normal(2, 8, 1, 2, seed=1),), (4, 5, 6, 7), (0, 0, 1, 1))
"""Four frames of two tokens."""


@pytest.mark.parametrize("count", range(5))
def test_frames_are_taken_in_the_order_given(count: int) -> None:
    for which in permutations(range(4), count):
        tokens = [2 * frame + token for frame in which for token in (0, 1)]
        k, v = FRAMES.take(0, which)
        assert torch.equal(k, FRAMES.keys[0][:, tokens]) and torch.equal(v, FRAMES.values[0][:, tokens])


@pytest.mark.parametrize(("which", "copied"), [((0, 1, 2, 3), False), ((1, 2), False), ((3,), False), ((2, 1), True)])
def test_neighbours_are_a_view(which: tuple[int, ...], copied: bool) -> None:
    own = FRAMES.keys[0].untyped_storage().data_ptr()
    assert (FRAMES.take(0, which)[0].untyped_storage().data_ptr() != own) == copied


@pytest.mark.parametrize("count", range(6))
def test_parts_have_as_many_frames_as_there_are(count: int) -> None:
    whole, n = FRAMES.source, min(count, 4)
    parts = (FRAMES.first(count), FRAMES.drop_first(count), FRAMES.last(count), FRAMES.drop_last(count))
    assert [part.source for part in parts] == [whole[:n], whole[n:], whole[4 - n :], whole[: 4 - n]]
    assert all(part.keys[0].shape[1] == part.values[0].shape[1] == 2 * part.count for part in parts)
