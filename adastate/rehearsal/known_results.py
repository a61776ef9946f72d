"""Caches the results of operations on fake tensors, by shapes, and recreates them without asking torch.

torch caches such results too, but spends most of an operation's time on checking whether it may. A step of a network
runs the same few hundred operations many thousand times.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode, in_kernel_invocation_manager

from adastate.rehearsal.pretended_cuda import TRUE_GENERATOR
from adastate.rehearsal.workload import Operation

CHANGE_SHAPES = {"resize_", "set_", "resize_as_", "lift_fresh", "lift", "_local_scalar_dense", "detach_"}
"""These, and operations without a result of their own, are never cached."""

PLAIN = (int, float, bool, str, torch.dtype, torch.device, torch.layout, torch.memory_format, type(None))
"""Types of arguments that can be part of a cache key."""


@dataclass(frozen=True)
class Made:
    """A tensor among the results.

    Attributes:
        argument: index of the argument tensor that it is (a change in place), or whose memory it views.
        same: whether it is that argument.
        bytes: size of its memory, if it has its own.
    """

    shape: tuple[int, ...]
    stride: tuple[int, ...]
    offset: int
    dtype: torch.dtype
    argument: int | None
    same: bool
    bytes: int


@dataclass(frozen=True)
class Result:
    """Of an operation: its results and its cost on the device; None if it costs nothing.

    Attributes:
        many: class of the container of results; None for a single result.
    """

    made: tuple[Any, ...]
    many: type | None
    cost: Operation | None


class KnownResults:
    """By operation and the shapes, strides, dtypes and numbers of its arguments; kept between trials."""

    _results: ClassVar[dict[Any, Result]] = {}

    def __init__(self, fake: FakeTensorMode, note: Callable[[Tensor, int], None]) -> None:
        self.fake, self.note = fake, note
        self._device = torch.device("cuda", 0)

    def key(self, func: Any, args: Any, kwargs: Any) -> tuple[Any, ...] | None:
        """None if the result cannot be cached."""
        if func.namespace not in ("aten", "fsdp"):
            return None
        parts: list[Any] = [func, torch.is_inference_mode_enabled()]
        if not _describe(args, parts):
            return None
        for name, value in kwargs.items():
            parts.append(name)
            if not _describe((value,), parts):
                return None
        return tuple(parts)

    def again(self, key: Any, tensors: list[Tensor]) -> tuple[Result, Any] | None:
        """The cached result recreated for these tensors, and its cost; None if it is not cached."""
        result = self._results.get(key)
        if result is None:
            return None
        if result.many is None:
            return result, self._make(result.made[0], tensors)
        return result, result.many(self._make(made, tensors) for made in result.made)

    def keep(self, key: Any, func: Any, tensors: list[Tensor], out: Any, cost: Operation | None) -> None:
        if func._overloadpacket.__name__ in CHANGE_SHAPES or torch.Tag.inplace_view in func.tags:
            return
        many = type(out) if isinstance(out, tuple | list) else None
        found = [self._describe(x, tensors) for x in (out if many else (out,))]
        if None in found or many not in (None, tuple, list):
            return
        made = tuple(x[0] for x in found if x)
        if all(
            _alike(x, self._make(one, tensors, noted=False))
            for x, one in zip(out if many else (out,), made, strict=True)
        ):
            self._results[key] = Result(made, many, cost)

    def _describe(self, x: Any, tensors: list[Tensor]) -> tuple[Any] | None:
        if not isinstance(x, Tensor):
            return (x,) if isinstance(x, PLAIN) else None
        if not isinstance(x, FakeTensor) or x.fake_device.type != "cuda" or _unusual(x):
            return None
        same = next((i for i, y in enumerate(tensors) if y is x), None)
        memory = x.untyped_storage()
        views = next((i for i, y in enumerate(tensors) if y.untyped_storage()._cdata == memory._cdata), None)
        argument = views if same is None else same
        if argument is not None and x.dtype != tensors[argument].dtype:
            return None  # complex numbers viewed as pairs, or the reverse
        size = memory.nbytes() if argument is None else 0
        offset = int(x.storage_offset())
        return (Made(tuple(x.shape), x.stride(), offset, x.dtype, argument, same is not None, size),)

    def _make(self, made: Any, tensors: list[Tensor], noted: bool = True) -> Any:
        if not isinstance(made, Made):
            return made
        if made.same:
            assert made.argument is not None
            return tensors[made.argument]
        with in_kernel_invocation_manager(self.fake):
            if made.argument is not None:
                bare = torch.as_strided(tensors[made.argument], made.shape, made.stride, made.offset)
            else:
                bare = torch.empty_strided(made.shape, made.stride, dtype=made.dtype, device="meta")
        x = FakeTensor(self.fake, bare, self._device)
        if noted and made.argument is None:
            self.note(x, made.bytes)
        return x


def tensors_among(values: Iterable[Any], tensors: list[Tensor]) -> bool:
    """Adds the tensors among some arguments to `tensors`; returns whether there is a generator as well."""
    drawn = False
    for x in values:
        if isinstance(x, Tensor):
            tensors.append(x)
        elif type(x) in (list, tuple):
            drawn |= tensors_among(x, tensors)
        elif isinstance(x, TRUE_GENERATOR):
            drawn = True
    return drawn


def _alike(x: Any, again: Any) -> bool:
    """Whether torch treats both alike: in inference mode it does not if one is a view of a tensor created before."""
    if not isinstance(x, Tensor):
        return bool(x == again)
    return bool(torch._C._dispatch_key_set(x) == torch._C._dispatch_key_set(again))


def _unusual(x: Any) -> bool:
    """Whether its values are known, or its data are read in another way than they are stored (conjugate, negative)."""
    return x.constant is not None or x.is_neg() or x.is_conj() or x.layout is not torch.strided


def _describe(values: Any, parts: list[Any]) -> bool:
    for x in values:
        kind = type(x)
        if kind is FakeTensor or isinstance(x, Tensor):
            if not isinstance(x, FakeTensor) or x.fake_device.type != "cuda" or _unusual(x):
                return False
            parts += (x.shape, x.stride(), x.storage_offset(), x.dtype, x.is_inference())
        elif kind in (list, tuple):
            parts += (kind, len(x))
            if not _describe(x, parts):
                return False
        elif isinstance(x, PLAIN):
            parts += (kind, x)
        else:
            return False
    return True
