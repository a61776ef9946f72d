"""RAFT's optical flow through torchvision, where both it and its weights are present; nothing is fetched from here."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

NAME = "raft_small_C_T_V2-01064c6d.pth"
"""As torchvision names the weights in torch's hub folder."""

LEAST = 128
"""RAFT looks at an eighth of the resolution, so smaller pictures are enlarged to this side."""


def weights() -> Path | None:
    """Where the weights lie, None if they are not there."""
    path = Path(torch.hub.get_dir()) / "checkpoints" / NAME
    return path if path.is_file() else None


@torch.no_grad()
def raft_flow(video: Tensor) -> Tensor:
    """Optical flow of the scene `[B, T - 1, 2, h, w]`, (x, y) pixels a picture.

    Raises:
        FileNotFoundError: without weights.
    """
    path = weights()
    if path is None:
        raise FileNotFoundError(
            f"no RAFT weights: put torchvision's {NAME} into {Path(torch.hub.get_dir()) / 'checkpoints'}, or use flow()"
        )
    from torchvision.models.optical_flow import raft_small

    net = raft_small()
    net.load_state_dict(torch.load(path, weights_only=True))
    net = net.eval().to(video.device)
    height, width = video.shape[-2:]
    scale = max(1, -(-LEAST // min(height, width)))
    large = nn.functional.interpolate(video.flatten(0, 1), scale_factor=scale, mode="bilinear", align_corners=False)
    large = large.unflatten(0, video.shape[:2])
    parts = []
    for clip in large:
        found = net(clip[:-1], clip[1:])[-1]
        parts.append(nn.functional.avg_pool2d(found, scale) / scale if scale > 1 else found)
    return torch.stack(parts)
