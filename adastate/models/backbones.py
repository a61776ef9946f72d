"""The kinds of networks that `size.backbone` names, one folder each, and their construction."""

from __future__ import annotations

from typing import Any

import torch

from adastate.models.video_network import Backbone, Engine, FusedPasses, Size, VideoNetwork
from adastate.models.wan import WAN
from adastate.models.wan22 import WAN22
from adastate.runtime.named import named

BACKBONES = {"wan": WAN, "wan22": WAN22}


def backbone_named(name: str) -> Backbone:
    """The backbone with a name of `BACKBONES`, or at a dotted path.

    Raises:
        ValueError: there is none.
    """
    return named(name, BACKBONES, "size cannot have backbone", "Backbone", lambda found: isinstance(found, Backbone))


def build_network(size: Size, **options: Any) -> VideoNetwork:
    """A network of this size with random weights; `options` as of VideoNetwork."""
    return backbone_named(size.backbone).network(size, **options)


def fused(net: VideoNetwork, dtype: torch.dtype | None, engine: Engine, fp8: bool) -> FusedPasses | None:
    """The fused passes of an unsharded network, if its backbone has them; arguments as for Backbone."""
    make = backbone_named(net.size.backbone).fused
    return None if make is None else make(net, dtype, engine, fp8)
