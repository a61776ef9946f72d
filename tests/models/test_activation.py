"""GELU equals torch's, with its gradients."""

from __future__ import annotations

import torch
from torch.nn import functional as nnf

from adastate.models.activation import gelu
from tests.support.tiny import normal


def test_it_is_torchs_with_and_without_a_graph() -> None:
    x = 4 * normal(3, 50)
    assert torch.allclose(gelu(x), nnf.gelu(x, approximate="tanh"), atol=1e-6)
    assert torch.equal(gelu(x.requires_grad_()), gelu(x.detach()))


def test_gradients() -> None:
    x = normal(20, seed=3).double().requires_grad_()
    assert torch.autograd.gradcheck(gelu, x)


def test_bf16_rounds_once() -> None:
    x = (4 * normal(200)).bfloat16().requires_grad_()
    wide = x.detach().float().requires_grad_()
    expected = nnf.gelu(wide, approximate="tanh")
    assert torch.allclose(gelu(x).float(), expected, rtol=2**-8, atol=1e-4)
    gelu(x).sum().backward()
    expected.sum().backward()
    assert x.grad is not None and wide.grad is not None
    assert torch.allclose(x.grad.float(), wide.grad, rtol=2**-8, atol=1e-4)
