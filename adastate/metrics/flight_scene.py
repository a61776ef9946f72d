"""The scene of a flight's pictures: biome, time of day, weather, and the camera's hidden constants.

Time, weather and biome are predicted by a linear classifier on pooled colours, exposure and contrast by a linear
regression on the same; `python -m datamodules.tools.fit_flight_scene` fits their weights on rendered flights. Grain is
measured.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import lru_cache
from importlib.resources import files
from io import BytesIO

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as nnf

STORED = "flight_scene.npz"
FACTS = ("biome", "time", "weather")
CONSTANTS = ("exposure", "contrast")

BELL = (math.pi / 2) ** 0.5
"""Standard deviation of a normal variable over its mean absolute value."""


def scene_features(video: Float[Tensor, "B T 3 h w"]) -> Float[Tensor, "B D"]:
    """Pooled colours of clips and their squares, unscaled.

    For each picture at half its size: mean colour of 8 rows by 2 columns, standard deviation and mean slope of 6 rows,
    colour relative to brightness of 8 rows, and the deciles of brightness; then the mean over the pictures.
    """
    x = nnf.avg_pool2d((video.flatten(0, 1) + 1) / 2, 2)
    grey = x.mean(1, keepdim=True)
    mean = nnf.adaptive_avg_pool2d(x, (8, 2))
    rows = nnf.adaptive_avg_pool2d(x, (8, 1))
    square = nnf.adaptive_avg_pool2d(x.square(), (6, 1)) - nnf.adaptive_avg_pool2d(x, (6, 1)).square()
    slope = [nnf.adaptive_avg_pool2d(grey.diff(dim=d).abs(), (6, 1)).log1p() * 4 for d in (-1, -2)]
    hue = rows / (rows.mean(1, keepdim=True) + 0.03) / 3
    deciles = torch.quantile(grey.flatten(1), torch.linspace(0.05, 0.95, 7).to(x), dim=1).T
    parts = [mean, square.clamp(min=0).sqrt(), *slope, hue, deciles]
    clip = torch.cat([p.flatten(1) for p in parts], 1).unflatten(0, video.shape[:2]).mean(1)
    return torch.cat([clip, clip.square(), torch.ones_like(clip[:, :1])], 1)


@lru_cache(maxsize=1)
def scene_weights() -> Mapping[str, np.ndarray]:
    """Stored arrays: `<fact>` and `<constant>` weights, `<fact>_names`, and mean and deviation of the features."""
    with np.load(BytesIO((files("adastate") / "pretrained" / STORED).read_bytes())) as stored:
        return dict(stored)


def scores(video: Float[Tensor, "B T 3 h w"], what: str) -> Float[Tensor, "B K"]:
    """Logits of a fact's values in the order of `fact_names`, or a constant's value `[B, 1]`."""
    known = scene_weights()
    mean, deviation, weight = (torch.from_numpy(known[k].astype(np.float32)) for k in ("mean", "deviation", what))
    return (scene_features(video.float().cpu()) - mean) / deviation @ weight


def fact_names(fact: str) -> list[str]:
    return [str(name) for name in scene_weights()[f"{fact}_names"]]


def likeliest_facts(video: Float[Tensor, "B T 3 h w"], fact: str) -> list[str]:
    """The likeliest biome, time or weather of each clip."""
    if fact not in FACTS:
        raise ValueError(f"{fact!r} is not a fact; facts are  {', '.join(FACTS)}")
    return [fact_names(fact)[i] for i in scores(video, fact).argmax(1).tolist()]


def hidden_constants(video: Float[Tensor, "B T 3 h w"]) -> dict[str, Float[Tensor, " B"]]:
    """Exposure and contrast as in `Lens`, estimated, and grain as a standard deviation of light in [0, 1]."""
    return {
        **{constant: scores(video, constant)[:, 0].exp() for constant in CONSTANTS},
        "grain": grain(video).mean(1),
    }


def grain(video: Float[Tensor, "B T 3 h w"]) -> Float[Tensor, "B T"]:
    """Standard deviation of the pictures' grain, in light from 0 to 1, from their smoothest blocks.

    Mean absolute response, over blocks of 8 x 8 pixels, of a Laplacian that is zero on planes and on straight edges
    along an axis (Immerkaer 1996); of all blocks the one at the 15th percentile. A plain sky reads a sixth too low,
    land without grain .002. A codec that blurs reduces grain, and so this measure.
    """
    light = (video.flatten(0, 1).mean(1, keepdim=True) + 1) / 2
    bell = torch.tensor([1.0, -2.0, 1.0]).to(light)
    rough = nnf.conv2d(light, torch.outer(bell, bell)[None, None]).abs()
    blocks = nnf.avg_pool2d(rough, 8, 4).flatten(1)
    return (torch.quantile(blocks, 0.15, dim=1) * BELL / 6).view(video.shape[:2])
