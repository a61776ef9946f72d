"""What a pass of a network requires of the engine that runs it, and the pass as a function of tensors alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from adastate.models.video_network import TextKeys
from adastate.types import FrameMask, Positions, Probe, Rotate, TokenSplit

Join = Callable[[int, Tensor | None, Tensor, Tensor, Rotate], tuple[Tensor, Tensor]]
"""Signature of Memory.join."""


class Modulation(NamedTuple):
    """Modulation of a layer's norms and residuals by a timestep: `[D]` for one level or `[B F, D]`, one per frame."""

    scale: Tensor  # 1 + scale
    shift: Tensor
    gate: Tensor
    scale_ffn: Tensor
    shift_ffn: Tensor
    gate_ffn: Tensor


class Modulations(NamedTuple):
    """Modulations of all layers, and (1 + scale, shift) of the head."""

    blocks: list[Modulation]
    head: tuple[Tensor, Tensor]
    stacked: tuple[Tensor, Tensor] | None = None
    """Both as tensors, `[layers, 6, D]` and `[2, D]`, or `[layers, 6, B F, D]` and `[2, B F, D]`, for engines that need
    them in this form."""


class EnginePass(NamedTuple):
    """Settings that all blocks of one pass share."""

    batch: int
    frame_tokens: int
    table: Tensor
    """RoPE of queries and keys `[L, 1, 1, K/2]`, or `[L, 2, 1, K/2]` if they differ."""
    keeps: bool
    """Whether raw keys are needed."""
    visible: FrameMask | None
    join: Join
    turn: Rotate
    text: TextKeys
    probe: Probe | None = None
    split: TokenSplit | None = None
    """Split over the ranks that share the pass."""
    key_positions: Positions = ()


Run = Callable[[Tensor, Modulations, EnginePass, bool], Tensor | None]
"""(patches, modulations, pass, clean) -> velocity in patches."""


def stacked(made: Modulations) -> Modulations:
    """The same, with everything in two tensors as well."""
    return made._replace(stacked=(torch.stack([torch.stack(m) for m in made.blocks]), torch.stack(made.head)))


def written(run: Run) -> Callable[..., Tensor | None]:
    """`run` as a function of tensors alone."""

    def written(
        patches: Tensor,
        blocks: Tensor,
        head: Tensor,
        table: Tensor,
        keys: Tensor,
        values: Tensor,
        raw: Tensor | None,
        index: Tensor,
        text: TextKeys,
        batch: int,
        frame_tokens: int,
        clean: bool,
    ) -> Tensor | None:
        def join(layer: int, own: Tensor | None, k: Tensor, v: Tensor, turn: Rotate) -> tuple[Tensor, Tensor]:
            keys[layer].index_copy_(1, index, k)
            values[layer].index_copy_(1, index, v)
            if raw is not None and own is not None:
                raw[layer].index_copy_(1, index, own.to(raw.dtype))
            return keys[layer], values[layer]

        made = Modulations([Modulation(*m.unbind(0)) for m in blocks.unbind(0)], (head[0], head[1]))
        return run(
            patches, made, EnginePass(batch, frame_tokens, table, raw is not None, None, join, _no_turn, text), clean
        )

    return written


def _no_turn(k: Tensor, positions: tuple[int, ...]) -> Tensor:
    raise RuntimeError("slots are rotated before the pass")
