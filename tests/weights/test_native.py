"""Networks made for weights that lie in a file."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from adastate.models.wan import DiT
from adastate.weights import WeightsError, load_network, save_weights
from tests.support.tiny import GRID, SIZE, normal, random_net


def test_a_network_is_made_with_the_weights_of_its_file_and_draws_none(tmp_path: Path) -> None:
    kept = random_net()
    save_weights(kept, tmp_path / "net.safetensors")
    before = torch.get_rng_state()
    net = load_network(SIZE, str(tmp_path / "net.safetensors"), checkpointing=True)
    assert torch.equal(torch.get_rng_state(), before), "random weights would be replaced at once"
    assert net.checkpointing and all(p.requires_grad and p.device.type == "cpu" for p in net.parameters())
    x, t, text = normal(1, 2, SIZE.channels, *GRID), torch.tensor([500.0]), normal(1, SIZE.text_tokens, SIZE.text_width)
    assert torch.equal(net(x, t, text), kept(x, t, text))


def test_without_a_file_its_weights_are_random() -> None:
    torch.manual_seed(3)
    drawn = load_network(SIZE, compute_dtype="bfloat16")
    torch.manual_seed(3)
    same = DiT(SIZE)
    assert all(torch.equal(a, b) for a, b in zip(drawn.parameters(), same.parameters(), strict=True))
    assert drawn.compute_dtype is torch.bfloat16


def test_a_file_that_does_not_fit_makes_none(tmp_path: Path) -> None:
    save_weights(random_net(), tmp_path / "net.safetensors")
    with pytest.raises(WeightsError, match="another size: width 64 in the file, 32 here"):
        load_network(SIZE.__class__(**{**vars(SIZE), "width": 32}), str(tmp_path / "net.safetensors"))
