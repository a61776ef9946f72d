"""The Wan diffusion transformer: its network, and fused passes without gradient."""

from adastate.models.video_network import Backbone
from adastate.models.wan.dit import DiT
from adastate.models.wan.fused import Passes

__all__ = ["WAN", "DiT"]

WAN = Backbone(DiT, Passes)
