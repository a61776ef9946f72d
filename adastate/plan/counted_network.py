"""The cost of a network of any backbone, counted on torch's meta device: parameters, and FLOP of passes as counted by
torch. This needs no formula for its layers.

A pass over F frames of a network without memory costs c + l F + p F^2: p for each (query frame, key frame) pair that
attention computes, so the cost of a stream's pass follows from the pairs that it sees. All three are linear in the
number of layers. So three clips at two depths determine everything.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from math import isqrt

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from adastate.models import backbones
from adastate.models.video_network import Size

CLIPS = (1, 2, 3)
"""Latent frames of the clips that are counted."""

DEPTHS = (1, 2)


@dataclass(frozen=True)
class NetworkCounts:
    """For one sample, with two FLOP per multiply-add.

    Attributes:
        parameters: of the network.
        fixed, frame, pair: FLOP of a pass, of each of its frames, and of each pair of frames in attention.
        text: FLOP of the keys of a prompt.
    """

    parameters: float
    fixed: float
    frame: float
    pair: float
    text: float

    def forward(self, frames: int, pairs: int) -> float:
        """FLOP of a pass."""
        return self.fixed + self.frame * frames + self.pair * pairs


@lru_cache(maxsize=64)
def counted(size: Size, tokens: int) -> NetworkCounts:
    """The counts of a network of this size, with `tokens` tokens per frame.

    Raises:
        ValueError: raised by the backbone for a size that it does not support.
    """
    few, more = (_at_depth(replace(size, layers=layers), tokens) for layers in DEPTHS)
    further = (size.layers - DEPTHS[0]) / (DEPTHS[1] - DEPTHS[0])
    return NetworkCounts(*(a + (b - a) * further for a, b in zip(few, more, strict=True)))


def _at_depth(size: Size, tokens: int) -> tuple[float, ...]:
    with torch.device("meta"):
        net = backbones.build_network(size)
        text = torch.zeros(1, size.text_tokens, size.text_width)
        with torch.no_grad():
            with FlopCounterMode(display=False) as of_text:
                keys = net.text_keys(text)
            one, two, three = (_of_clip(net, size, tokens, frames, keys) for frames in CLIPS)
    pair = (three - 2 * two + one) / 2
    frame = two - one - 3 * pair
    own = sum(p.numel() for p in net.parameters())
    return own, one - frame - pair, frame, pair, of_text.get_total_flops()


def _of_clip(net: torch.nn.Module, size: Size, tokens: int, frames: int, keys: object) -> float:
    height = next(h for h in range(isqrt(tokens), 0, -1) if tokens % h == 0)
    grid = (height * size.patch[1], tokens // height * size.patch[2])
    x: Tensor = torch.zeros(1, frames, size.channels, *grid)
    with FlopCounterMode(display=False) as counter:
        net(x, torch.zeros(1, frames), keys)
    return float(counter.get_total_flops())
