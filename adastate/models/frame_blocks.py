"""Equals torch's create_block_mask for a frame mask: tests/models/test_frame_blocks.py.

That function first creates a boolean per query and key, which takes 4 GB for the two copies of a clip of 21 frames at
480p. Whether a block of tokens is visible entirely, partly or not at all follows from the frames at its ends.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from adastate.types import FrameMask

BLOCK = 128
"""Tokens per side of a block: flex_attention's default."""


@lru_cache(maxsize=64)
@torch.inference_mode(False)
def block_mask(visible: FrameMask, frame_tokens: int, device: torch.device) -> Any:
    """The BlockMask in which frame i's tokens see those of the key frames in row i, with `frame_tokens` per frame."""
    from torch.nn.attention.flex_attention import BlockMask

    seen = torch.tensor(visible, dtype=torch.bool, device=device)

    def mask(b: Tensor, h: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return seen[query // frame_tokens, key // frame_tokens]

    count, area = _seen_pairs(visible, frame_tokens)
    partial, full = (count > 0) & (count < area), count == area
    rows = (*_ordered(partial, device), *_ordered(full, device))
    lengths = (len(visible) * frame_tokens, len(visible[0]) * frame_tokens)
    return BlockMask.from_kv_blocks(*rows, BLOCK_SIZE=BLOCK, mask_mod=mask, seq_lengths=lengths)


def _seen_pairs(visible: FrameMask, frame_tokens: int) -> tuple[Tensor, Tensor]:
    """(pairs of frames that see each other, all pairs) of every block of queries and keys, `[Q, K]` each.

    A block that extends beyond the last token counts one more pair, which is not seen.
    """
    pairs = torch.tensor(visible, dtype=torch.int64)
    sums = torch.nn.functional.pad(pairs.cumsum(0).cumsum(1), (1, 0, 1, 0))
    (q_from, q_to, q_over), (k_from, k_to, k_over) = (_frames(n, frame_tokens) for n in pairs.shape)

    def corner(rows: Tensor, columns: Tensor) -> Tensor:
        return sums[rows][:, columns]

    count = corner(q_to, k_to) - corner(q_from, k_to) - corner(q_to, k_from) + corner(q_from, k_from)
    area = (q_to - q_from)[:, None] * (k_to - k_from)
    return count, area + (q_over[:, None] | k_over)


def _frames(frames: int, frame_tokens: int) -> tuple[Tensor, Tensor, Tensor]:
    """(first frame, end, whether it extends beyond the last token) of every block."""
    tokens = frames * frame_tokens
    first = torch.arange(0, tokens, BLOCK)
    last = (first + BLOCK).clamp(max=tokens) - 1
    return first // frame_tokens, last // frame_tokens + 1, first + BLOCK > tokens


def _ordered(blocks: Tensor, device: torch.device) -> tuple[Tensor, Tensor]:
    """(number of blocks of keys in each row, their indices followed by the others), as BlockMask expects them."""
    count = blocks.sum(1, dtype=torch.int32)
    indices = blocks.int().argsort(dim=1, descending=True, stable=True).int()
    return count[None, None].to(device), indices[None, None].contiguous().to(device)
