"""The Wan diffusion transformer: its network, and fused passes without gradient."""

from adastate.models.wan.dit import DiT, Size

__all__ = ["DiT", "Size"]
