"""What an operation costs a device: FLOP, bytes, kernels, and by that the seconds that it would take at least."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import flop_registry

from adastate.rehearsal.accelerators import ACCELERATORS, NODE_LINK, PRODUCTS, STREAMS, Accelerator

aten = torch.ops.aten

PRODUCT = {"mm", "addmm", "bmm", "baddbmm", "_scaled_mm", "convolution", "convolution_backward", "_int_mm"}
ATTENTION = "_scaled_dot_product_"
FREE = {
    "view", "_unsafe_view", "detach", "alias", "expand", "t", "transpose", "permute", "slice", "select", "split",
    "unbind", "unsqueeze", "squeeze", "view_as_real", "view_as_complex", "as_strided", "narrow", "chunk", "unfold",
    "split_with_sizes", "lift_fresh", "_reshape_alias", "empty", "empty_like", "new_empty", "empty_strided", "diagonal",
    "_local_scalar_dense", "is_same_size", "resize_", "set_", "record_stream", "device", "unflatten", "_conj",
    "new_empty_strided", "real", "imag", "is_pinned", "detach_", "_has_same_storage_numel",
}  # fmt: skip
"""No kernel."""

WIDE = 100
"""Tensors that one kernel of torch's _foreach operations takes."""


@dataclass
class Workload:
    """Of one phase.

    Attributes:
        kernels: launched.
        flop, moved: by kind of operation (product, attention, other); FLOP and bytes read and written.
        sent: bytes that this rank gives to or takes from others.
        seconds: by device and kind, what a roofline says.
        single: FLOP of products in float32.
    """

    kernels: float = 0.0
    flop: Counter[str] = field(default_factory=Counter)
    moved: Counter[str] = field(default_factory=Counter)
    sent: float = 0.0
    seconds: dict[str, dict[str, float]] = field(default_factory=lambda: {n: defaultdict(float) for n in ACCELERATORS})
    single: float = 0.0


def kind_of(name: str) -> str:
    if name in PRODUCT:
        return "product"
    return "attention" if name.startswith(ATTENTION) else "other"


def count(
    work: Workload, func: Any, args: Any, kwargs: Any, out: Any, inputs: list[Tensor], outputs: list[Tensor]
) -> None:
    """Adds one operation on the device to `work`."""
    name = func._overloadpacket.__name__
    if name in FREE:
        return
    many = name.startswith("_foreach") or name.startswith("_fused_adam")
    work.kernels += max(1, len(inputs) // WIDE) if many else 1
    read = {id(x): x for x in inputs}
    moved = sum(map(size_of, read.values())) + sum(size_of(x) for x in outputs if id(x) not in read)
    packet, flop = func._overloadpacket, 0
    if packet in flop_registry:
        flop = int(flop_registry[packet](*args, **kwargs, out_val=out))
    kind = kind_of(name)
    work.flop[kind] += flop
    work.moved[kind] += moved
    dtype = inputs[0].dtype if inputs else torch.float32
    if kind == "product" and dtype in (torch.float32, torch.float64):
        work.single += flop
    for key, device in ACCELERATORS.items():
        work.seconds[key][kind] += max(flop / (_rate(device, dtype) * PRODUCTS), moved / (device.bandwidth * STREAMS))


def communicate(work: Workload, bytes_: int, one_node: bool) -> None:
    """Adds a collective in which this rank has `bytes_` of its own, or of all where it gathers."""
    work.sent += bytes_
    for key, device in ACCELERATORS.items():
        work.seconds[key]["communication"] += bytes_ / (STREAMS * (device.link if one_node else NODE_LINK))


def size_of(x: Tensor) -> int:
    return x.numel() * x.element_size()


def _rate(device: Accelerator, dtype: torch.dtype) -> float:
    if dtype.itemsize == 1:
        return device.eight or device.half
    return device.half if dtype.itemsize == 2 else device.single
