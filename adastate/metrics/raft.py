"""RAFT's optical flow through torchvision, where both it and its weights are on this machine; nothing is fetched.

torchvision is imported when it is asked for and not before: one that was not built for the torch at hand fails then,
in ways of its own, and whoever measures without it must not notice.
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
"""As torchvision names the weights in torch's hub folder."""

LEAST = 128
"""RAFT looks at an eighth of the resolution, so smaller pictures are enlarged to this side."""

PAIRS = 8
"""Pairs of pictures at a time: each holds a table of all its places by all places, 150 MB at 480 x 832."""

Flow = Callable[[Float[Tensor, "B T 3 h w"]], Float[Tensor, "B T-1 2 h w"]]
"""Optical flow of the scene, (x, y) pixels a picture, of video in [-1, 1]."""


class NoRaft(Exception):
    """Why there is no RAFT here, in half a sentence."""


def raft_flow(file: Path | None = None, device: torch.device | str = "cpu") -> Flow:
    """RAFT's small network, ready on `device`; what it gives is on the device of the video.

    Args:
        file: its weights as torchvision publishes them; None looks for them in torch's hub folder.

    Raises:
        NoRaft: weights or torchvision are missing, or do not go together.
    """
    folder = Path(torch.hub.get_dir()) / "checkpoints"
    path = folder / NAME if file is None else file
    if not path.is_file():
        where = f"no {NAME} in {folder}: put torchvision's there, or give --raft FILE" if file is None else f"no {path}"
        raise NoRaft(f"there is {where}")
    try:
        from torchvision.models.optical_flow import raft_small  # type: ignore[import-not-found,import-untyped,unused-ignore]
    except Exception as error:  # one that does not fit its torch fails with whatever comes first
        raise NoRaft(f"torchvision does not import ({' '.join(str(error).split())[:100]})") from error
    net = raft_small()
    try:
        net.load_state_dict(plain_data.load_data(path, NoRaft, "take torchvision's own"))
    except (RuntimeError, TypeError, AttributeError) as error:
        raise NoRaft(f"{path} holds no weights of torchvision's raft_small") from error
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
        found = net(*large)[-1]  # the last of its refinements
        parts.append((nn.functional.avg_pool2d(found, scale) / scale).to(video.device))
    return torch.cat(parts).unflatten(0, (video.shape[0], video.shape[1] - 1))
