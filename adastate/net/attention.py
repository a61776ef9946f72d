"""Attention behind one signature. Torch's scaled_dot_product_attention picks the kernel (flash where it can)."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor
from torch.nn import functional as nnf

from adastate.types import FrameMask

DENSE_LIMIT = 2**21
"""Up to so many (query, key) pairs a boolean mask is cheaper than one call per group of equal rows."""


def attend(
    q_BLNK: Tensor, k_BLNK: Tensor, v_BLNK: Tensor, visible: FrameMask | None = None, frame_tokens: int = 1
) -> Tensor:
    """Softmax attention `[B, Lq, N, K]`; with `visible`, frame i's queries see the key frames of row i.

    A large mask is never built: queries of equal rows run together over just the keys that they see, which
    is exact, costs no more arithmetic than the mask leaves, and lets flash kernels do it.
    """
    q, k, v = (x.transpose(1, 2) for x in (q_BLNK, k_BLNK, v_BLNK))
    if visible is None or all(map(all, visible)):
        return _sdpa(q, k, v).transpose(1, 2)
    if q.shape[2] * k.shape[2] <= DENSE_LIMIT:
        return _sdpa(q, k, v, _token_mask(visible, frame_tokens, q.device)).transpose(1, 2)
    parts = []
    for first, last, row in _groups(visible):
        rows = slice(first * frame_tokens, last * frame_tokens)
        seen = _seen(row, frame_tokens, q.device)
        keys, values = (k, v) if all(row) else (k[:, :, seen], v[:, :, seen])
        parts.append(_sdpa(q[:, :, rows], keys, values))
    return torch.cat(parts, dim=2).transpose(1, 2)


def _sdpa(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    """On a CPU, bf16 attention is spelled out: torch's flash kernel there is slower, its backward four times."""
    if q.device.type != "cpu" or q.dtype != torch.bfloat16:
        return nnf.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    if q.shape[2] * k.shape[2] > DENSE_LIMIT:
        if torch.is_grad_enabled() or mask is not None:
            return nnf.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        return torch.cat([_spelled(part, k, v) for part in q.split(max(1, DENSE_LIMIT // 2 // k.shape[2]), 2)], 2)
    return _spelled(q, k, v, mask)


def _spelled(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    score = (q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1)
    if mask is not None:
        score = score.masked_fill(~mask, float("-inf"))
    return score.softmax(-1) @ v


@lru_cache(maxsize=64)
def _token_mask(visible: FrameMask, frame_tokens: int, device: torch.device) -> Tensor:
    mask = torch.tensor(visible, dtype=torch.bool)
    return mask.repeat_interleave(frame_tokens, 0).repeat_interleave(frame_tokens, 1).to(device)


@lru_cache(maxsize=256)
def _seen(row: tuple[bool, ...], frame_tokens: int, device: torch.device) -> Tensor:
    return torch.tensor(row).repeat_interleave(frame_tokens).nonzero()[:, 0].to(device)


def _groups(visible: FrameMask) -> list[tuple[int, int, tuple[bool, ...]]]:
    """(first, end, row) of every run of equal rows."""
    groups: list[tuple[int, int, tuple[bool, ...]]] = []
    for i, row in enumerate(visible):
        if groups and groups[-1][2] == row:
            groups[-1] = (groups[-1][0], i + 1, row)
        else:
            groups.append((i, i + 1, row))
    return groups
