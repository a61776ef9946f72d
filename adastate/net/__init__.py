"""The network: Wan2.1's diffusion transformer, bidirectional, block-causal or streaming; ignorant of training."""

from adastate.net.dit import DiT, Size
from adastate.net.sharding import is_sharded, local, refuse_compiled, shard, whole_weights

__all__ = ["DiT", "Size", "is_sharded", "local", "refuse_compiled", "shard", "whole_weights"]
