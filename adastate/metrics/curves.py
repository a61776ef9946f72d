"""Measures over time: any measure of a clip, window by window."""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor


def over_time(
    measure: Callable[[Float[Tensor, "B T *each"]], Float[Tensor, "B ..."]],
    video: Float[Tensor, "B T *each"],
    window: int,
    stride: int | None = None,
) -> Float[Tensor, "B windows ..."]:
    """`measure` of each window of `window` pictures, consecutive or `stride` apart.

    An incomplete window at the end is not measured.
    """
    starts = range(0, video.shape[1] - window + 1, stride or window)
    if not starts:
        raise ValueError(f"{video.shape[1]} pictures are too few for a window of {window}")
    return torch.stack([measure(video[:, i : i + window]) for i in starts], 1)


def averaged(series: Float[Tensor, "B T"], window: int, offset: int = 0) -> Float[Tensor, "B windows"]:
    """Means of a series over windows of `window`; nan values are left out.

    Args:
        offset: picture at which the series begins: 1 if it is of pairs and value i belongs to picture i + 1. Windows
            begin at picture 0, so the first one has that many values fewer.
    """
    pad = series.new_full((len(series), offset), float("nan"))
    padded = torch.cat([pad, series], 1)
    whole = padded.shape[1] // window * window
    return padded[:, :whole].unflatten(1, (-1, window)).nanmean(2)
