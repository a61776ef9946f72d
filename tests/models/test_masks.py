"""Who sees whom in the training forwards, as tables: rows are queries, columns keys."""

from __future__ import annotations

import pytest

from adastate.models.masks import block_causal, blocks, teacher_forcing
from adastate.types import FrameMask


def table(mask: FrameMask) -> list[str]:
    return ["".join("x" if seen else "." for seen in row) for row in mask]


def test_block_causal() -> None:
    assert table(block_causal(6, 3)) == ["xxx...", "xxx...", "xxx...", "xxxxxx", "xxxxxx", "xxxxxx"]
    assert table(block_causal(3, 1)) == ["x..", "xx.", "xxx"]


def test_a_window_counts_the_block_itself() -> None:
    assert table(block_causal(6, 2, window=3)) == ["xx....", "xx....", ".xxx..", ".xxx..", "...xxx", "...xxx"]
    assert block_causal(6, 2, window=6) == block_causal(6, 2), "a window that holds everything is none"


def test_an_independent_first_frame() -> None:
    assert blocks(7, 3, first=1) == [0, 1, 1, 1, 2, 2, 2]
    assert table(block_causal(4, 3, first=1)) == ["x...", "xxxx", "xxxx", "xxxx"]


def test_teacher_forcing() -> None:
    """[clean | noisy]: a noisy block sees the clean ones before it and itself, never its own clean copy."""
    assert table(teacher_forcing(4, 2)) == [
        "xx......",
        "xx......",
        "xxxx....",
        "xxxx....",
        "....xx..",
        "....xx..",
        "xx....xx",
        "xx....xx",
    ]


def test_teacher_forcing_with_a_streaming_window() -> None:
    """`past` frames before the block, for both copies, as a cache of that many frames gives."""
    assert table(teacher_forcing(3, 1, past=1)) == ["x.....", "xx....", ".xx...", "...x..", "x...x.", ".x...x"]
    assert teacher_forcing(6, 2, past=4) == teacher_forcing(6, 2)
    assert teacher_forcing(6, 2, past=3) != teacher_forcing(6, 2)


@pytest.mark.parametrize(("frames", "block", "first"), [(7, 3, None), (2, 3, None), (6, 3, 1)])
def test_frames_that_do_not_divide_are_an_error_with_both_numbers(frames: int, block: int, first: int | None) -> None:
    with pytest.raises(ValueError, match=f"{frames} frames do not divide into blocks of {block}"):
        blocks(frames, block, first)
