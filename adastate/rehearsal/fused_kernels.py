"""Makes torch choose the kernels that it uses on a GPU, where it would use others, or many small ones, without one."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor, unset_fake_temporarily
from torch.utils._pytree import tree_flatten

from adastate.rehearsal.source_lines import asked_by_a_library

aten = torch.ops.aten
HALF = (torch.bfloat16, torch.float16)
WIDEST_HEAD = 256
"""Dtypes of flash kernels."""


@contextlib.contextmanager
def fused_kernels(masked: Callable[[Tensor], None], waited: Callable[[str], None]) -> Iterator[None]:
    """In this context, attention and RMS norms of CUDA tensors are one kernel each, and host memory can be pinned.

    Args:
        masked: called with the mask of every masked attention.
        waited: called where the host reads a list of numbers.
    """

    def read(x: Tensor) -> Any:
        if not isinstance(x, FakeTensor) or x.fake_device.type != "cuda":
            return as_list(x)
        waited("numbers read by the host")
        with unset_fake_temporarily():
            return torch.zeros(tuple(x.shape), dtype=x.dtype).tolist()

    def attention(
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attn_mask: Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        *,
        scale: float | None = None,
        enable_gqa: bool = False,
    ) -> Tensor:
        if attn_mask is not None:
            masked(attn_mask)
        return _attention(query, key, value, attn_mask, dropout_p, is_causal, scale=scale, enable_gqa=enable_gqa)

    def shown(x: Tensor, **options: Any) -> str:
        if x.fake_device.type == "cuda" and not asked_by_a_library():  # type: ignore[attr-defined]
            waited("numbers formatted as text, which the host waits for")
        return f"tensor{tuple(x.shape)}"

    as_list = Tensor.tolist
    pinned: dict[int, Tensor] = {}

    def pin(x: Tensor, device: Any = None) -> Tensor:
        pinned[id(x)] = x
        return x

    kernels = torch.library.Library("aten", "IMPL")
    try:
        for key in ("CUDA", "AutogradCUDA"):
            kernels.impl("scaled_dot_product_attention", attention, key)
            kernels.impl("rms_norm", _rms_norm, key)
        with (
            mock.patch.object(Tensor, "is_pinned", lambda x, device=None: id(x) in pinned),
            mock.patch.object(Tensor, "pin_memory", pin),
            mock.patch.object(Tensor, "tolist", read),
            mock.patch.object(FakeTensor, "tolist", read),
            mock.patch.object(FakeTensor, "__format__", _written, create=True),
            mock.patch.object(FakeTensor, "__repr__", shown, create=True),
            mock.patch.object(torch, "tensor", _gathered(torch.tensor)),
            mock.patch.object(torch, "as_tensor", _gathered(torch.as_tensor)),
        ):
            yield
    finally:
        kernels._destroy()


@lru_cache(maxsize=1024)
def is_made_of_others(func: Any) -> bool:
    """Whether autograd decomposes the operation, while inference mode does not."""
    if func.namespace != "aten":
        return False
    return bool(torch._C._dispatch_has_kernel_for_dispatch_key(func.name(), "CompositeImplicitAutograd"))


def _gathered(make: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Like torch.tensor, which reads device tensors inside a list one by one."""

    def read(data: Any) -> Any:
        if isinstance(data, list | tuple):
            return [read(x) for x in data]
        return data.tolist() if isinstance(data, FakeTensor) and data.fake_device.type == "cuda" else data

    def gathered(data: Any, *args: Any, **options: Any) -> Tensor:
        there = isinstance(data, list | tuple) and any(isinstance(x, FakeTensor) for x in tree_flatten(data)[0])
        return make(read(data) if there else data, *args, **options)

    return gathered


def made_on_a_gpu(func: Any, args: Any, kwargs: Any) -> Any:
    """Runs a composite operation in inference mode, in which the kernels above would be bypassed."""
    flat = [x for x in (*args, *kwargs.values()) if isinstance(x, FakeTensor)]
    if flat and flat[0].fake_device.type == "cuda":
        if func is aten.scaled_dot_product_attention.default:
            return _attention(*args, **kwargs)
        if func is aten.rms_norm.default:
            return _rms_norm(*args, **kwargs)
    return func.decompose(*args, **kwargs)


def _written(x: Tensor, form: str) -> str:
    """Formatting a tensor of one number prints the number, which the host waits for."""
    return format(x.item() if x.dim() == 0 else repr(x), form)


def _attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    *,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """The flash kernel for half precision without a mask, else the memory-efficient one."""
    if len({x.dtype for x in (q, k, v)}) > 1:
        raise RuntimeError(f"attention of query {q.dtype}, key {k.dtype} and value {v.dtype}: they must be equal")
    mask, dropout, causal = attn_mask, dropout_p, is_causal
    if enable_gqa:
        k, v = (x.repeat_interleave(q.shape[1] // x.shape[1], 1) for x in (k, v))
    if mask is None and q.dtype in HALF and q.shape[-1] <= WIDEST_HEAD:
        made = torch.ops.aten._scaled_dot_product_flash_attention(q, k, v, dropout, causal, scale=scale)
        return made[0]  # type: ignore[no-any-return]
    if mask is not None:
        if mask.dtype == torch.bool:
            zeros = torch.zeros(mask.shape, dtype=q.dtype, device=q.device)
            mask = zeros.masked_fill_(~mask, float("-inf"))
        mask = mask.expand(*q.shape[:2], q.shape[2], k.shape[2])
    learns = torch.is_grad_enabled() and any(x.requires_grad for x in (q, k, v))
    efficient = torch.ops.aten._scaled_dot_product_efficient_attention
    return efficient(q, k, v, mask, learns, dropout, causal, scale=scale)[0]  # type: ignore[no-any-return]


def _rms_norm(x: Tensor, shape: Any, weight: Tensor | None = None, eps: float | None = None) -> Tensor:
    if weight is None or x.dtype != weight.dtype:
        y = x * torch.rsqrt(x.square().mean(-1, keepdim=True) + (eps or 1e-6))
        return y if weight is None else y * weight
    return _OneNorm.apply(x, weight)  # type: ignore[no-any-return, no-untyped-call]


class _OneNorm(torch.autograd.Function):
    """A single kernel, which saves its input and one number per row."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight, torch.empty(*x.shape[:-1], 1, dtype=torch.float32, device=x.device))
        return torch.empty_like(x)

    @staticmethod
    def backward(ctx: Any, *given: Tensor) -> tuple[Tensor, Tensor]:
        x, weight, _ = ctx.saved_tensors
        return torch.empty_like(x), torch.empty_like(weight)
