"""GELU equals torch's, with its gradients."""

from __future__ import annotations

import torch
from torch.nn import functional as nnf

from adastate.net.activation import gelu
from tests.tiny import normal


def test_it_is_torchs_with_and_without_a_graph() -> None:
    x = 4 * normal(3, 50)
    assert torch.allclose(gelu(x), nnf.gelu(x, approximate="tanh"), atol=1e-6)
    assert torch.equal(gelu(x.requires_grad_()), gelu(x.detach()))


def test_gradients_of_first_and_second_order() -> None:
    x = normal(20, seed=3).double().requires_grad_()
    assert torch.autograd.gradcheck(gelu, x)
    assert torch.autograd.gradgradcheck(gelu, x)


def test_bf16_is_within_its_rounding() -> None:
    x = (4 * normal(200)).bfloat16()
    expected = nnf.gelu(x.float(), approximate="tanh")
    assert float((gelu(x).float() - expected).abs().max()) < 4e-2
