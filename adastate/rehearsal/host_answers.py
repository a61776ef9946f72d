"""Host reads of device values, which make it wait: each is recorded, and answered so that the run continues."""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce
from typing import Any, Protocol

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode, unset_fake_temporarily

from adastate.rehearsal.source_lines import asked_by_a_library

aten = torch.ops.aten
UNANSWERED = object()
"""Result for operations that read nothing and have to run."""

OF_UNKNOWN_LENGTH = (
    aten.nonzero.default, aten.masked_select.default, aten.repeat_interleave.Tensor, aten.bincount.default,
    aten._unique2.default, aten.unique_consecutive.default,
)  # fmt: skip
PUTS = (aten.index_put_.default, aten.index_put.default)


class Waiting(Protocol):
    def waited(self, what: str) -> None:
        """The host waited for the device."""


class HostAnswers:
    """Numbers read as one, booleans as whatever lets a run continue, and selections as large as possible.

    Args:
        told: notified of every wait.
        note: called with every tensor that is created here.
    """

    def __init__(self, told: Waiting, fake: FakeTensorMode, note: Callable[[Tensor], None]) -> None:
        self.told, self.fake, self.note = told, fake, note

    def answer(self, func: Any, args: Any, kwargs: Any, fakes: list[Any], target: str | None) -> Any:
        """Answers an operation on device tensors; UNANSWERED if the host reads nothing."""
        first = fakes[0]
        if target == "cpu":
            self.told.waited("a copy to the host")
            return _known(first, kwargs.get("dtype") or first.dtype)
        if func is aten._local_scalar_dense.default:
            self.told.waited("one number read by the host")
            return _number(first)
        if func is aten.equal.default:
            self.told.waited("a comparison read by the host")
            return True
        if func is aten.copy_.default and _on_host(args[0]):
            self.told.waited("a copy to the host")
            return args[0]
        if func is aten.index.Tensor and any(isinstance(i, Tensor) and i.dtype is torch.bool for i in args[1]):
            self.told.waited("booleans as an index, whose count the host waits for")
            x, index = args
            at = next(k for k, v in enumerate(index) if v is not None)
            shape = list(x.shape)
            shape[at : at + index[at].dim()] = [reduce(lambda a, b: a * b, index[at].shape, 1)]
            return self._empty(x, shape)
        if func in PUTS and any(isinstance(i, Tensor) and i.dtype is torch.bool for i in args[1]):
            if args[2].numel() > 1:  # torch fills in a single number without reading the positions
                self.told.waited("booleans as an index, whose count the host waits for")
            return args[0] if func is aten.index_put_.default else self._empty(args[0], list(args[0].shape))
        if func in OF_UNKNOWN_LENGTH:
            name = func._overloadpacket.__name__.strip("_2")
            self.told.waited(f"{name}, whose result length the host waits for")
            return self._of_some_length(func, args, first)
        return UNANSWERED

    def _of_some_length(self, func: Any, args: Any, first: Tensor) -> Any:
        """The maximum possible length; for repetitions, the length of what is repeated."""
        if func is aten.nonzero.default:
            return self._empty(first, [first.numel(), first.dim()], torch.int64)
        if func in (aten.repeat_interleave.Tensor, aten.bincount.default):
            return self._empty(first, [first.numel()], torch.int64)
        flat = self._empty(first, [first.numel()])
        if func is aten.masked_select.default:
            return flat
        return (
            flat,
            self._empty(first, list(first.shape), torch.int64),
            self._empty(first, [first.numel()], torch.int64),
        )

    def _empty(self, like: Tensor, shape: list[int], dtype: torch.dtype | None = None) -> Tensor:
        with self.fake:
            out: Tensor = aten.new_empty.default(like, shape, dtype=dtype or like.dtype)
        self.note(out)
        return out


def _number(x: Tensor) -> Any:
    if x.is_floating_point():
        return 1.0
    # a library asks whether to stop or whether something overflowed; our code asks whether something is there
    yes = not asked_by_a_library()
    return yes if x.dtype is torch.bool else int(yes)


def _known(x: Any, dtype: torch.dtype) -> Tensor:
    """A copy on the host: the known values if it came from there, else zeros."""
    known = getattr(x, "known", None)
    with unset_fake_temporarily():
        return torch.zeros(tuple(x.shape), dtype=dtype) if known is None else known.to(dtype, copy=True)


def _on_host(x: Any) -> bool:
    if not isinstance(x, Tensor):
        return False
    return getattr(x, "fake_device", x.device).type == "cpu"
