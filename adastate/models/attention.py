"""Equals functional.scaled_dot_product_attention, with several kernels: tests/models/test_attention.py.

The plain function is the default, and sufficient. In bf16 on a CPU it is written out, with its own backward.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from functools import lru_cache
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as nnf

from adastate.models.frame_blocks import block_mask
from adastate.types import FrameMask

Backend = Literal["auto", "sdpa", "flash_attn", "flash3", "flash4", "flex"]

_HOOKS = {"flash3": ("FA3", "flash-attn-3"), "flash4": ("FA4", "flash-attn-4")}
"""Implementations behind torch's own function: its name for them, and the package that registers them."""

_OF_DEVICE: dict[int, tuple[Backend, ...]] = {9: ("flash3", "flash4"), 10: ("flash4",)}
"""Kernels faster than torch's own, by the major number of a device's compute capability, the fastest first."""

_backend: Backend = "sdpa"

_package: Callable[..., Any] | None = None
"""flash_attn's function while it is in use: code in a compiled pass must not import."""

PACKAGE_DEVICE = "cuda"
"""Dtypes on which flash_attn runs."""

DENSE_LIMIT = 2**21
"""Up to this many (query, key) pairs a boolean mask is cheaper than one call per group of equal rows."""


def use(backend: Backend) -> str:
    """Selects the attention kernels of this process; returns a line for the log.

    `auto`: the fastest that the device and the installed packages support, of flash3, flash4 and sdpa. `sdpa`: torch
    chooses. `flash_attn`: that package, for unmasked attention in half precision. `flash3`, `flash4`: those kernels
    within torch's function. `flex`: torch's flex_attention for frame masks. Where a kernel does not apply, torch's
    function is used.

    Raises:
        ValueError: there is no such backend, or it is not installed.
    """
    global _backend, _package
    restore = getattr(torch.nn.attention, "restore_flash_attention_impl", None)
    if _backend in _HOOKS and restore is not None:
        restore()
    _backend, _package = "sdpa", None
    if backend == "auto":
        return _best()
    told = f"attention: {backend}"
    if backend in _HOOKS:
        _activate(backend)
    elif backend == "flash_attn":
        try:
            package = importlib.import_module("flash_attn")
        except ImportError as error:
            raise ValueError(
                "attention 'flash_attn' needs the package: pip install --no-build-isolation -e '.[flash]'"
            ) from error
        _package = package.flash_attn_func
        told += f" {package.__version__}"
    elif backend not in ("sdpa", "flex"):
        raise ValueError(f"attention {backend!r}: available are auto, sdpa, flash_attn, flash3, flash4 and flex")
    _backend = backend
    return told


def _activate(backend: Backend) -> None:
    name, package = _HOOKS[backend]
    try:
        torch.nn.attention.activate_flash_attention_impl(name)  # type: ignore[attr-defined]
    except Exception as error:  # the import may fail with any exception
        raise ValueError(
            f"attention {backend!r} needs the package {package} and a torch with "
            f"torch.nn.attention.activate_flash_attention_impl: {error}"
        ) from error


def _best() -> str:
    """Activates the fastest kernels of this device that are installed, else torch's own."""
    global _backend
    if not torch.cuda.is_available():
        return "attention: sdpa"
    missing = []
    for backend in _OF_DEVICE.get(torch.cuda.get_device_capability()[0], ()):
        try:
            _activate(backend)
        except ValueError:
            missing.append(_HOOKS[backend][1])
            continue
        _backend = backend
        return f"attention: {backend}, the fastest on this device"
    return "attention: sdpa" + f" (this device also supports {' or '.join(missing)}, not installed)" * bool(missing)


def attend(
    q_BLNK: Float[Tensor, "B Lq N K"],
    k_BLNK: Float[Tensor, "B L N K"],
    v_BLNK: Float[Tensor, "B L N K"],
    visible: FrameMask | None = None,
    frame_tokens: int = 1,
) -> Float[Tensor, "B Lq N K"]:
    """Softmax attention; with `visible`, frame i's queries see the key frames of row i.

    A large mask is never built: queries of equal rows run together over only the keys that they see, which is exact,
    costs no more arithmetic than the mask leaves, and allows flash kernels.
    """
    whole = visible is None or all(map(all, visible))
    half = q_BLNK.dtype in (torch.bfloat16, torch.float16)
    if whole and _package is not None and half and q_BLNK.device.type == PACKAGE_DEVICE:
        # torch's own kernels check this setting themselves
        return _package(q_BLNK, k_BLNK, v_BLNK, deterministic=torch.are_deterministic_algorithms_enabled())
    q, k, v = (x.transpose(1, 2) for x in (q_BLNK, k_BLNK, v_BLNK))
    if visible is None or whole:
        return _sdpa(q, k, v).transpose(1, 2)
    if _backend == "flex":
        return _flex(q.device.type)(q, k, v, block_mask=block_mask(visible, frame_tokens, q.device)).transpose(1, 2)
    if q.shape[2] * k.shape[2] <= DENSE_LIMIT:
        return _sdpa(q, k, v, _token_mask(visible, frame_tokens, q.device)).transpose(1, 2)
    parts = []
    for first, last, row in _groups(visible):
        rows = slice(first * frame_tokens, last * frame_tokens)
        seen = _seen(row, frame_tokens, q.device)
        keys, values = (k, v) if all(row) else (k[:, :, seen], v[:, :, seen])
        parts.append(_sdpa(q[:, :, rows], keys, values))
    return torch.cat(parts, dim=2).transpose(1, 2)


def _sdpa(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    """Writes attention in bf16 on a CPU out: torch's flash kernel is slower there, its backward four times."""
    if q.device.type != "cpu" or q.dtype != torch.bfloat16:
        return nnf.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    if q.shape[2] * k.shape[2] > DENSE_LIMIT:
        if torch.is_grad_enabled() or mask is not None:
            return nnf.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        return torch.cat([_spelled(part, k, v) for part in q.split(max(1, DENSE_LIMIT // 2 // k.shape[2]), 2)], 2)
    return _spelled(q, k, v, mask)


def _spelled(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    if torch.is_grad_enabled() and (q.requires_grad or k.requires_grad or v.requires_grad):
        return _Spelled.apply(q, k, v, mask)  # type: ignore[no-any-return, no-untyped-call]
    shape = q.shape
    q, k, v = _flat(q, k, v)
    return torch.bmm(_weights(q, k, mask), v).view(shape)


def _flat(*x: Tensor) -> list[Tensor]:
    """`[B, N, L, K]` as `[B N, L, K]`."""
    return [y.reshape(-1, *y.shape[2:]) for y in x]


def _weights(q: Tensor, k: Tensor, mask: Tensor | None) -> Tensor:
    score = torch.baddbmm(q.new_empty(1), q, k.transpose(1, 2), beta=0, alpha=q.shape[-1] ** -0.5).float()
    if mask is not None:
        score.masked_fill_(~mask, float("-inf"))
    return score.softmax(-1).to(q.dtype)


SHORT_ROWS = 64
"""Below this many keys torch's softmax backward takes longer in bf16 than in float32, conversions included."""


class _Spelled(torch.autograd.Function):
    """Attention of `[B, N, L, K]` in bf16 as three products, with the softmax in float32."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        shape = q.shape
        q, k, v = _flat(q, k, v)
        weight = _weights(q, k, mask)
        ctx.save_for_backward(q, k, v, weight)
        return torch.bmm(weight, v).view(shape)

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, *given: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, weight = ctx.saved_tensors
        batch_heads, scale = given[0].shape[:2], q.shape[-1] ** -0.5
        (g,) = _flat(given[0])
        dw = torch.bmm(g, v.transpose(1, 2))
        kind = torch.float32 if weight.shape[-1] < SHORT_ROWS else weight.dtype
        ds = torch._softmax_backward_data(dw.to(kind), weight.to(kind), -1, kind).to(q.dtype)
        dq = torch.baddbmm(q.new_empty(1), ds, k, beta=0, alpha=scale)
        dk = torch.baddbmm(q.new_empty(1), ds.transpose(1, 2), q, beta=0, alpha=scale)
        dv = torch.bmm(weight.transpose(1, 2), g)
        return *(x.unflatten(0, batch_heads) for x in (dq, dk, dv)), None


@lru_cache(maxsize=64)
@torch.inference_mode(False)
def _token_mask(visible: FrameMask, frame_tokens: int, device: torch.device) -> Tensor:
    mask = torch.tensor(visible, dtype=torch.bool)
    return mask.repeat_interleave(frame_tokens, 0).repeat_interleave(frame_tokens, 1).to(device)


@lru_cache(maxsize=256)
@torch.inference_mode(False)
def _seen(row: tuple[bool, ...], frame_tokens: int, device: torch.device) -> Tensor:
    return torch.tensor(row).repeat_interleave(frame_tokens).nonzero()[:, 0].to(device)


def _groups(visible: FrameMask) -> list[tuple[int, int, tuple[bool, ...]]]:
    """(first, end, row) of every run of equal rows."""
    groups: list[tuple[int, int, tuple[bool, ...]]] = []
    for i, row in enumerate(visible):
        if groups and groups[-1][2] == row:
            groups[-1] = (groups[-1][0], i + 1, row)
        else:
            groups.append((i, i + 1, row))
    return groups


@lru_cache(maxsize=2)
def _flex(device: str) -> Any:
    from torch.nn.attention.flex_attention import flex_attention

    return torch.compile(flex_attention, dynamic=False) if device == "cuda" else flex_attention
