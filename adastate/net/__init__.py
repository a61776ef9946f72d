"""The network: Wan2.1's diffusion transformer, bidirectional, block-causal or streaming; ignorant of training."""

from adastate.net.dit import DiT, Size

__all__ = ["DiT", "Size"]
