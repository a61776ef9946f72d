"""Equals functional.gelu in its tanh form, with its own backward: tests/models/test_activation.py.

On a CPU torch's version spends its time in tanh; through a sigmoid it takes half as long.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as nnf

ROOT = (2 / torch.pi) ** 0.5
LINEAR, CUBIC = 2 * ROOT, 2 * ROOT * 0.044715
"""2 u = LINEAR x + CUBIC x^3."""

_LINEAR = torch.tensor(LINEAR, dtype=torch.float64)
"""Created once, as that takes as long as a small product. It has no axes, and so does not change dtypes."""


def gelu(x: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """x (1 + tanh(u)) / 2 = x sigmoid(2 u), with u = sqrt(2 / pi) (x + 0.044715 x^3)."""
    if x.device.type != "cpu" or torch.compiler.is_compiling():
        return nnf.gelu(x, approximate="tanh")
    if torch.is_grad_enabled() and x.requires_grad:
        return _Gelu.apply(x)  # type: ignore[no-any-return, no-untyped-call]
    f = widened(x)
    return _sigmoid(f).mul_(f).to(x.dtype)


def widened(x: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """In float32 at least: in bf16 every operation would round, and take longer."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def _sigmoid(f: Tensor) -> Tensor:
    return torch.addcmul(_LINEAR, f, f, value=CUBIC).mul_(f).sigmoid_()


class _Gelu(torch.autograd.Function):
    """Saves its derivative instead of its input, so that backward is one product.

    With s = sigmoid(2 u) and y = x s the derivative is s + y (1 - s) (LINEAR + 3 CUBIC x^2).
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        f = widened(x)
        s = _sigmoid(f)
        y = s * f
        out = y.to(x.dtype)
        # If the input has another dtype, both are copies and are overwritten: fewer tensors stay in a core's cache.
        left = torch.addcmul(y, y, s, value=-1, out=y if out is not y else None)
        slope = torch.addcmul(_LINEAR, f, f, value=3 * CUBIC, out=f if f is not x else None)
        ctx.save_for_backward(s.addcmul_(left, slope).to(x.dtype))
        return out

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, *given: Tensor) -> Tensor:
        (derivative,) = ctx.saved_tensors
        return given[0] * derivative  # type: ignore[no-any-return]
