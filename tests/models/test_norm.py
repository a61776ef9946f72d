"""The norm of queries and keys with its rotation: torch's norm, then `rotate`."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as nnf

from adastate.models.norm import RMSNorm
from adastate.models.rope import rope_table, rotate
from tests.support.tiny import normal

HEADS, EPS = 4, 1e-2
TABLE = rope_table((3, 7), 2, 3, 8, 16, torch.device("cpu"))


def plain(x: Tensor, weight: Tensor, table: Tensor | None) -> Tensor:
    y = nnf.rms_norm(x, weight.shape, weight, EPS).unflatten(-1, (HEADS, -1))
    return y if table is None else rotate(y, table)


def norm(dtype: torch.dtype) -> tuple[RMSNorm, Tensor]:
    made = RMSNorm(HEADS * 8, EPS).to(dtype)
    torch.nn.init.normal_(made.weight, generator=torch.Generator().manual_seed(1))
    return made, normal(2, 12, HEADS * 8).to(dtype).requires_grad_()


@pytest.mark.parametrize("table", [None, TABLE], ids=["as it is", "turned"])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 3e-2)], ids=str)
def test_values_and_gradients(dtype: torch.dtype, tolerance: float, table: Tensor | None) -> None:
    """Behind it gradients come with heads before tokens, as attention leaves them."""
    made, x = norm(dtype)
    weight, g = made.weight, normal(2, HEADS, 12, 8, seed=2).to(dtype).transpose(1, 2)
    ours, theirs = made(x, HEADS, table), plain(x, weight, table)
    assert ours.dtype == theirs.dtype == dtype
    found = (ours, *torch.autograd.grad(ours, (x, weight), g))
    for a, b in zip(found, (theirs, *torch.autograd.grad(theirs, (x, weight), g)), strict=True):
        assert a.shape == b.shape and a.dtype == b.dtype
        assert (a - b).norm() <= tolerance * b.norm()


@pytest.mark.parametrize("table", [None, TABLE], ids=["as it is", "turned"])
def test_gradients_are_those_of_the_values(table: Tensor | None) -> None:
    made, x = norm(torch.float64)
    table = None if table is None else table.to(torch.complex128)
    assert torch.autograd.gradcheck(lambda x, w: torch.func.functional_call(made, {"weight": w}, (x, HEADS, table)),
                                    (x, made.weight))  # fmt: skip


def test_weights_that_do_not_learn_get_no_gradient() -> None:
    made, x = norm(torch.float32)
    made.requires_grad_(False)
    made(x, HEADS, TABLE).sum().backward()
    assert x.grad is not None and made.weight.grad is None


def test_keys_are_no_wider_than_values_where_the_norm_is_made_in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    """As autocast has it on a GPU; the meta device takes the same way."""

    def wide(x: Tensor, shape: Any, weight: Tensor, eps: float) -> Tensor:
        return torch.empty(x.shape, device=x.device, dtype=torch.float32)

    monkeypatch.setattr(nnf, "rms_norm", wide)
    x = torch.empty(1, 4, 32, device="meta", dtype=torch.bfloat16)
    layer = RMSNorm(32, 1e-6).to("meta")
    turn = torch.empty(4, 1, 8, device="meta", dtype=torch.complex64)
    assert layer(x, 2).dtype == layer(x, 2, turn).dtype == torch.bfloat16
