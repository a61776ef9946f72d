"""What an operation makes of fake tensors of given shapes, once found, is made again without asking torch.

torch keeps such results, too, and spends most of an operation's time on asking whether it may. A step of a network runs
the same few hundred operations many thousand times.
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
"""And what has no result of its own: never kept."""

PLAIN = (int, float, bool, str, torch.dtype, torch.device, torch.layout, torch.memory_format, type(None))
"""Arguments that are what they seem."""


@dataclass(frozen=True)
class Made:
    """A tensor among the results.

    Attributes:
        argument: place among the arguments' tensors of what it is itself (a change in place), or whose memory it views.
        same: it is that argument.
        bytes: of its memory, where it has its own.
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
    """Of an operation: what it makes, and what it costs the device; None where that is nothing.

    Attributes:
        many: the class of what holds the results; None where there is one.
    """

    made: tuple[Any, ...]
    many: type | None
    cost: Operation | None


class KnownResults:
    """By operation and the shapes, strides, dtypes and numbers that it is given; kept from trial to trial."""

    _results: ClassVar[dict[Any, Result]] = {}

    def __init__(self, fake: FakeTensorMode, note: Callable[[Tensor, int], None]) -> None:
        self.fake, self.note = fake, note
        self._device = torch.device("cuda", 0)

    def key(self, func: Any, args: Any, kwargs: Any) -> tuple[Any, ...] | None:
        """None where a result cannot be kept."""
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
        """The result made once more of these tensors, and what it costs; None where it is not known yet."""
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
            return None  # complex numbers as pairs, and the other way round
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
    """Adds the tensors among some arguments to `tensors`; whether there is a generator, too."""
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
    """Whether torch treats both as one: in inference mode it does not where a view is of a tensor made before."""
    if not isinstance(x, Tensor):
        return bool(x == again)
    return bool(torch._C._dispatch_key_set(x) == torch._C._dispatch_key_set(again))


def _unusual(x: Any) -> bool:
    """Numbers that are known, or that are read otherwise than they lie."""
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
