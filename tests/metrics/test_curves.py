"""Windows of a video, and means of a series over them."""

from __future__ import annotations

import pytest
import torch

from adastate import metrics


def test_windows_follow_each_other_and_a_rest_is_left_out() -> None:
    video = torch.arange(10.0).reshape(1, 10, 1, 1, 1).expand(2, -1, 3, 2, 2)
    assert metrics.over_time(lambda v: v.mean((1, 2, 3, 4)), video, 4).tolist() == [[1.5, 5.5]] * 2
    assert metrics.over_time(lambda v: v.mean((1, 2, 3, 4)), video, 4, 3).tolist() == [[1.5, 4.5, 7.5]] * 2
    with pytest.raises(ValueError, match="too few for a window of 11"):
        metrics.over_time(lambda v: v, video, 11)


def test_a_series_of_pairs_falls_into_the_windows_of_its_pictures() -> None:
    pairs = torch.tensor([[1.0, 2, 3, 40, 50, 60]])  # of pictures 1 to 6
    assert metrics.averaged(pairs, 3, offset=1).tolist() == [[1.5, pytest.approx(31)]]
    holes = torch.tensor([[1.0, float("nan"), 3, 4]])
    assert metrics.averaged(holes, 2).tolist() == [[1, 3.5]]
