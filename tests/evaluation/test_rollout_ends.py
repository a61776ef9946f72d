"""What is measured of long videos, of which only the ends are kept."""

from __future__ import annotations

import pytest
import torch

from adastate.evaluation.rollout_ends import ends


@pytest.mark.parametrize("sizes", [(1, 4, 4, 4, 4), (3,) * 9, (40,), (2, 30), (1,) * 12])
@pytest.mark.parametrize(("once", "fps"), [(9, 4), (3, 5)])
def test_ends_are_those_of_the_whole(sizes: tuple[int, ...], once: int, fps: int) -> None:
    whole = torch.rand(2, sum(sizes), 1, 1, 1)
    found = ends(whole.split(sizes, 1), once, fps)
    assert torch.equal(found.first, whole[:, : max(once, fps)])
    assert torch.equal(found.last, whole[:, -fps:]) and found.pictures == sum(sizes)
