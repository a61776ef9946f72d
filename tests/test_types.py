"""What crosses file borders."""

from __future__ import annotations

import pytest
import torch

from adastate.types import Batch


def test_a_batch_is_moved_and_pinned_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    batch = Batch(torch.arange(2), ["a", "b"], latents=torch.ones(2, 1))
    moved = batch.to(torch.float64)
    assert moved.latents is not None and moved.latents.dtype == torch.float64 and moved.video is None
    pinned: list[int] = []
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda x: pinned.append(x.numel()) or x)
    again = batch.pin_memory()
    assert sorted(pinned) == [2, 2] and again.prompts == ["a", "b"]
