"""RAFT's optical flow through torchvision, if both it and its weights are on this machine; nothing is downloaded.

torchvision is imported only on request: a build for another torch version fails on import in its own ways, and other
measurements must not be affected.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from adastate.runtime import plain_data

NAME = "raft_small_C_T_V2-01064c6d.pth"
"""File name of the weights in torch's hub folder, as torchvision names it."""

LEAST = 128
"""RAFT works at an eighth of the resolution, so smaller pictures are enlarged to this side."""

PAIRS = 8
"""Pairs of pictures per batch: each needs an all-pairs correlation table, 150 MB at 480 x 832."""

Flow = Callable[[Float[Tensor, "B T 3 h w"]], Float[Tensor, "B T-1 2 h w"]]
"""Optical flow of the scene, (x, y) pixels per picture, of video in [-1, 1]."""


class NoRaft(Exception):
    """The reason why RAFT is unavailable, as half a sentence."""


def raft_flow(file: Path | None = None, device: torch.device | str = "cpu") -> Flow:
    """RAFT's small network, ready on `device`; the flow is on the device of the video.

    Args:
        file: its weights as published by torchvision; None: torch's hub folder.

    Raises:
        NoRaft: weights or torchvision are missing, or do not fit together.
    """
    folder = Path(torch.hub.get_dir()) / "checkpoints"
    path = folder / NAME if file is None else file
    if not path.is_file():
        where = f"no {NAME} in {folder}: put torchvision's there, or give --raft FILE" if file is None else f"no {path}"
        raise NoRaft(f"there is {where}")
    try:
        from torchvision.models.optical_flow import raft_small  # type: ignore[import-not-found,import-untyped,unused-ignore]
    except Exception as error:  # a torchvision for another torch may raise anything
        raise NoRaft(f"torchvision does not import ({' '.join(str(error).split())[:100]})") from error
    net = raft_small()
    try:
        net.load_state_dict(plain_data.load_data(path, NoRaft, "take torchvision's own"))
    except (RuntimeError, TypeError, AttributeError) as error:
        raise NoRaft(f"{path} does not hold weights of torchvision's raft_small") from error
    net = net.eval().to(device)
    return lambda video: _flow(net, video, torch.device(device))


@torch.no_grad()
def _flow(net: Any, video: Tensor, device: torch.device) -> Tensor:
    scale = max(1, -(-LEAST // min(video.shape[-2:])))
    before, after = video[:, :-1].flatten(0, 1), video[:, 1:].flatten(0, 1)
    parts = []
    for pair in zip(before.split(PAIRS), after.split(PAIRS), strict=True):
        large = (
            nn.functional.interpolate(x.to(device), scale_factor=scale, mode="bilinear", align_corners=False)
            for x in pair
        )
        found = net(*large)[-1]  # the last refinement
        parts.append((nn.functional.avg_pool2d(found, scale) / scale).to(video.device))
    return torch.cat(parts).unflatten(0, (video.shape[0], video.shape[1] - 1))
