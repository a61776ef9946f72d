"""Micro batches to the batch of an iteration."""

from __future__ import annotations

import pytest
import torch

from adastate.optim.accumulation import GlobalBatch
from adastate.types import Batch


def batch(first: int) -> Batch:
    return Batch(prompts=["a", "b"], index=torch.tensor([first, first + 1]))


@pytest.mark.parametrize(("world", "parts"), [(1, 4), (2, 2), (4, 1)])
def test_it_gives_all_parts_at_the_last(world: int, parts: int) -> None:
    """In their order, each once, and is empty between two iterations only."""
    collected = GlobalBatch(8)
    collected.micro = 2
    assert collected.parts(world) == parts
    for iteration in range(2):
        each = [batch(10 * iteration + 2 * i) for i in range(parts)]
        for early in each[:-1]:
            assert collected.add(early, world) == [] and not collected.is_empty
        found = collected.add(each[-1], world)
        assert len(found) == parts and all(a is b for a, b in zip(found, each, strict=True)) and collected.is_empty


def test_parts_that_do_not_make_it_up_are_refused() -> None:
    collected = GlobalBatch(8)
    collected.micro = 3
    with pytest.raises(ValueError, match="global_batch 8 is not a multiple of 2 processes x batch 3: change the data"):
        collected.add(batch(0), 2)


def test_processes_share_an_iteration_as_far_as_it_goes() -> None:
    assert [GlobalBatch(16).fit(16, world) for world in (1, 2, 4, 16)] == [16, 8, 4, 1]
    assert GlobalBatch(64).fit(1, 8) == 1 and GlobalBatch(64).fit(4, 8) == 4
    for batch, world in ((16, 3), (5, 2), (1, 32)):
        with pytest.raises(ValueError, match=f"of {world} processes x batch"):
            GlobalBatch(16).fit(batch, world)
