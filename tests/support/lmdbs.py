"""LMDB files in the layout in which pairs are published."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor


def write_pairs(
    folder: Path, count: int, shape: tuple[int, ...], claim: str | None = None, seed: int = 0
) -> list[tuple[Tensor, str]]:
    """Writes `count` pairs of latents of `shape` (float16) and prompts; `claim` stands in place of the true shape."""
    import lmdb

    g = torch.Generator().manual_seed(seed)
    pairs = [(torch.randn(shape, generator=g).half(), f"prompt {i}, straße") for i in range(count)]
    with lmdb.open(str(folder), map_size=1 << 30) as environment, environment.begin(write=True) as transaction:
        for i, (latents, prompt) in enumerate(pairs):
            transaction.put(f"latents_{i}_data".encode(), latents.numpy().tobytes())
            transaction.put(f"prompts_{i}_data".encode(), prompt.encode())
        told = " ".join(map(str, (count, *shape))) if claim is None else claim
        if told:
            transaction.put(b"latents_shape", told.encode())
    return [(latents.float(), prompt) for latents, prompt in pairs]
