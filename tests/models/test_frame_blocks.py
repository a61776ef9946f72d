"""The blocks of a frame mask are those that torch finds, without a boolean for every pair of tokens."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.nn.attention.flex_attention import create_block_mask
from torch.utils._python_dispatch import TorchDispatchMode

from adastate.models.frame_blocks import block_mask
from adastate.models.masks import block_causal, teacher_forcing
from adastate.types import FrameMask

CPU = torch.device("cpu")
MASKS = {
    "causal": block_causal(6, 3),
    "window": block_causal(9, 3, 6),
    "teacher forcing": teacher_forcing(6, 3),
    "with a window": teacher_forcing(9, 3, past=3),
    "more keys than queries": tuple((i % 2 == 0, True, False, i > 1, True) for i in range(3)),
    "rows that see nothing": ((False, False), (True, False)),
}


@pytest.mark.parametrize("frame_tokens", [1, 3, 16, 100, 128, 200, 256])
@pytest.mark.parametrize("name", MASKS)
def test_they_are_those_that_torch_finds(name: str, frame_tokens: int) -> None:
    visible = MASKS[name]
    seen = torch.tensor(visible)

    def mask(b: Any, h: Any, query: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
        return seen[query // frame_tokens, key // frame_tokens]

    lengths = (len(visible) * frame_tokens, len(visible[0]) * frame_tokens)
    expected = create_block_mask(mask, None, None, *lengths, device="cpu")
    made = block_mask(visible, frame_tokens, CPU)
    assert made.seq_lengths == expected.seq_lengths and made.BLOCK_SIZE == expected.BLOCK_SIZE
    for kind in ("kv", "full_kv", "q", "full_q"):
        count, wanted = getattr(made, f"{kind}_num_blocks"), getattr(expected, f"{kind}_num_blocks")
        assert torch.equal(count, wanted), kind
        indices, those = getattr(made, f"{kind}_indices"), getattr(expected, f"{kind}_indices")
        for row, n in enumerate(count[0, 0].tolist()):
            assert torch.equal(indices[0, 0, row, :n], those[0, 0, row, :n]), (kind, row)


class Largest(TorchDispatchMode):
    """The most bytes of any tensor that an operation gives."""

    bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for t in torch.utils._pytree.tree_leaves(out):
            if isinstance(t, torch.Tensor):
                self.bytes = max(self.bytes, t.numel() * t.element_size())
        return out


def test_both_copies_of_a_clip_at_480p_take_megabytes() -> None:
    visible: FrameMask = teacher_forcing(21, 3, past=9)
    with Largest() as largest:
        made = block_mask(visible, 1560, CPU)
    assert made.seq_lengths == (65_520, 65_520)
    assert largest.bytes < 2**23, "every pair of tokens would be 4 GB"
