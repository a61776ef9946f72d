"""The cost of an operation on a device: FLOP, bytes and kernels, and the minimum seconds that follow from them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.flop_counter import flop_registry

from adastate.rehearsal.accelerators import NODE_LINK, PRODUCTS, STREAMS, Accelerator

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
"""Operations without a kernel."""

WIDE = 100
"""Tensors that one kernel of torch's _foreach operations processes."""


class Operation(NamedTuple):
    """The cost of one operation on a device: number of kernels, FLOP, and bytes read and written."""

    kind: str
    dtype: torch.dtype
    kernels: int
    flop: int
    moved: int


@dataclass
class Workload:
    """The work of one phase.

    Attributes:
        operations: how often each operation was run.
        sent: bytes that this rank sends to or receives from others, within a node and between nodes.
    """

    operations: Counter[Operation] = field(default_factory=Counter)
    sent: float = 0.0
    one_node: bool = True

    @property
    def kernels(self) -> float:
        return sum(one.kernels * times for one, times in self.operations.items())

    @property
    def flop(self) -> Counter[str]:
        """By kind of operation: product, attention, other."""
        return self._by_kind(lambda one: one.flop)

    @property
    def moved(self) -> Counter[str]:
        """Bytes read and written, likewise."""
        return self._by_kind(lambda one: one.moved)

    def seconds(self, device: Accelerator) -> Counter[str]:
        """Seconds of a roofline model, by kind, including communication."""
        found = self._by_kind(lambda one: _seconds(one, device))
        link = device.link if self.one_node else NODE_LINK
        found["communication"] = self.sent / (STREAMS * link)  # type: ignore[assignment]
        return found

    def _by_kind(self, value: Callable[[Operation], Any]) -> Counter[str]:
        found: Counter[str] = Counter()
        for one, times in self.operations.items():
            found[one.kind] += times * value(one)
        return found


def kind_of(name: str) -> str:
    if name in PRODUCT:
        return "product"
    return "attention" if name.startswith(ATTENTION) else "other"


def cost_of(
    func: Any, args: Any, kwargs: Any, out: Any, inputs: Sequence[Tensor], outputs: Sequence[Tensor]
) -> Operation | None:
    """The cost of one operation on the device; None if no kernel runs."""
    name = func._overloadpacket.__name__
    if name in FREE:
        return None
    many = name.startswith("_foreach") or name.startswith("_fused_adam")
    read = {id(x): x for x in inputs}
    moved = sum(map(tensor_bytes, read.values())) + sum(tensor_bytes(x) for x in outputs if id(x) not in read)
    packet, flop = func._overloadpacket, 0
    if packet in flop_registry:
        flop = int(flop_registry[packet](*args, **kwargs, out_val=out))
    dtype = inputs[0].dtype if inputs else torch.float32
    return Operation(kind_of(name), dtype, max(1, len(inputs) // WIDE) if many else 1, flop, moved)


def _seconds(one: Operation, device: Accelerator) -> float:
    return max(one.flop / (_rate(device, one.dtype) * PRODUCTS), one.moved / (device.bandwidth * STREAMS))


def tensor_bytes(x: Tensor) -> int:
    return x.numel() * x.element_size()


def _rate(device: Accelerator, dtype: torch.dtype) -> float:
    if dtype.itemsize == 1:
        return device.eight or device.half
    return device.half if dtype.itemsize == 2 else device.single
