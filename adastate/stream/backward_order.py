"""What a pass left in the cache learns after the pass's own output.

FSDP2 and ZeRO-3 bring a module's weights back when a gradient comes by the module's output. Cached keys leave a network
by another way: without the order made here, a gradient would reach the layers of a clean pass, whose velocity nobody
uses, while their weights are away.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


class _AfterOutput(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, output: Tensor, *kept: Tensor) -> tuple[Tensor, ...]:  # type: ignore[override]
        ctx.set_materialize_grads(False)
        ctx.shape, ctx.like = output.shape, output.new_empty(0)
        return tuple(tensor.view_as(tensor) for tensor in kept)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        return (ctx.like.new_zeros(ctx.shape), *gradients)


def after_output(output: Tensor, kept: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """`kept` of a pass with gradient, whose backward begins with the pass's `output`, which gets zeros."""
    return _AfterOutput.apply(output, *kept)  # type: ignore[no-any-return, no-untyped-call]
