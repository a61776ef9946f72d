"""The transformer of Wan2.2 TI2V: Wan2.1's, with a separate timestep for every token."""

from adastate.models.video_network import Backbone
from adastate.models.wan.fused import Passes
from adastate.models.wan22.token_dit import TokenDiT

__all__ = ["WAN22", "TokenDiT"]

WAN22 = Backbone(TokenDiT, Passes)
