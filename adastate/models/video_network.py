"""The interface of the networks of teacher, student and critic."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from adastate.models.compute_dtype import named_dtype
from adastate.models.size import Size
from adastate.types import FrameMask, Memory, TokenSplit

Engine = Literal["eager", "compile", "graph"]
"""How passes without gradient run, see adastate.models.engine."""

TextKeys = list[tuple[Tensor, Tensor]]
"""Cross-attention keys and values `[B, Lt, N, K]` of every layer: one prompt, computed once."""


class FusedPasses(Protocol):
    """Passes of a network without gradient: equal to its forward, in fewer operations, with its current weights."""

    def text(self, keys: TextKeys) -> TextKeys:
        """Converts a prompt's keys, from `VideoNetwork.text_keys`, for these passes."""

    def __call__(self, x: Tensor, t: Tensor, memory: Memory, text: TextKeys, actions: Tensor | None = None) -> Tensor:
        """Like VideoNetwork.forward with a memory; the result of a clean pass is not used."""


class VideoNetwork(nn.Module):
    """Predicts the velocity eps - x0 of noisy latents: without mask and memory the bidirectional teacher or critic,
    with a mask the block-causal training forward, with a memory the streaming student.

    Args:
        size: geometry; a backbone may reject values with a ValueError.
        checkpointing: recompute activations in backward; same gradients, less memory.
        compute_dtype: cast the float32 master weights to this dtype once per forward ("bfloat16"; "auto": that one on
            devices with instructions for it, float32 on others).
        compiled: run passes over whole clips that see everything through torch.compile.

    Attributes:
        blocks: the layers in order; strategies shard weights by block, and adapters are found in them.
        split: how ranks share each pass; None: this process runs it alone.
        can_split: whether this class of network supports `split`.
    """

    blocks: nn.ModuleList
    split: TokenSplit | None = None
    can_split: bool = False

    def __init__(
        self, size: Size, checkpointing: bool = False, compute_dtype: str | None = None, compiled: bool = False
    ) -> None:
        super().__init__()
        self.size = size
        self.checkpointing, self.compiled = checkpointing, compiled
        self.compute_dtype_name = compute_dtype
        named_dtype(compute_dtype, "cpu")  # raises for an unknown name

    @property
    def compute_dtype(self) -> torch.dtype | None:
        """The dtype that weights are cast to in a pass, on their current device; None: no cast."""
        return named_dtype(self.compute_dtype_name, next(self.parameters()).device.type)

    @property
    def weight_dtype(self) -> torch.dtype:
        return next(self.parameters()).dtype

    def forward(
        self,
        x: Tensor,
        t: Tensor,
        text: Tensor | TextKeys,
        positions: Sequence[int] | None = None,
        visible: FrameMask | None = None,
        memory: Memory | None = None,
        actions: Tensor | None = None,
    ) -> Tensor:
        """One pass.

        Args:
            x: noisy latents `[B, F, C, H, W]`.
            t: timesteps in [0, 1000], `[B]` or one per frame `[B, F]`.
            text: embeddings `[B, Lt, text_width]`, or the keys that `text_keys` made of them.
            positions: RoPE time index of each frame; default 0..F-1. Not with a memory, which has them.
            visible: which frames see which (no memory).
            memory: cached keys and values to attend to, which also stores this pass's own: each layer passes its keys
                to `memory.join`, and attends to the result.
            actions: actions of each frame `[B, F, actions + 1]`; the last column says whether they are given (see
                adastate.models.actions); None: not given for any frame.

        Returns:
            Velocity `[B, F, C, H, W]` in the dtype of `x`.
        """
        raise NotImplementedError

    def text_keys(self, text: Tensor) -> TextKeys:
        """Cross-attention keys and values of all layers, computed once from embeddings `[B, Lt, text_width]`."""
        raise NotImplementedError


class Backbone(NamedTuple):
    """A kind of network.

    Attributes:
        network: its class.
        fused: creates faster passes without gradient for an unsharded network of this class, in a dtype (None: the
            network's own), by an engine, with or without FP8; None: there are none, and `forward` is used.
    """

    network: type[VideoNetwork]
    fused: Callable[[Any, torch.dtype | None, Engine, bool], FusedPasses] | None = None


def is_whole(net: nn.Module) -> bool:
    """Whether this process holds all weights; under ZeRO-3 and FSDP it holds shards."""
    return all(p.numel() > 0 and not hasattr(p, "full_tensor") and not hasattr(p, "ds_id") for p in net.parameters())
