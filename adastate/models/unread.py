"""Networks whose weights still lie in their files, until it is known on which device they belong.

Until then a network is on torch's meta device, where it takes no memory. A process that reads its networks at once
would hold all of them in float32 on the host before they go to its GPU, and so would every other process of a machine.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Self
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from adastate.models.fsdp import local, piece_of

Read = Callable[[str], Tensor]
"""The weight of a name, whole, as its file has it."""

_LATER = ContextVar("later", default=False)
_READERS: WeakKeyDictionary[nn.Module, Read] = WeakKeyDictionary()


@contextmanager
def reading_later() -> Iterator[None]:
    """Within, networks that are made with the weights of a file are left unread."""
    token = _LATER.set(True)
    try:
        yield
    finally:
        _LATER.reset(token)


def may_wait() -> bool:
    """Whether networks that are made now are to be left unread."""
    return _LATER.get()


def leave(net: nn.Module, read: Read) -> None:
    """Notes by what the weights of `net`, which is on the meta device, are read when it is brought."""
    _READERS[net] = read


def leave_copy(copy: nn.Module, net: nn.Module) -> None:
    """Of an unread `net`, `copy` has the same weights, unread as well; of another it has them already."""
    if net in _READERS:
        _READERS[copy] = _READERS[net]


def whole_weight(net: nn.Module, name: str) -> Tensor:
    """One weight of `net`, where it is, or out of the file where the network is unread."""
    return _READERS[net](name) if net in _READERS else net.get_parameter(name).detach()


@torch.no_grad()
def bring(net: nn.Module, device: torch.device | str, dtype: torch.dtype | None = None) -> None:
    """Reads the weights of `net` straight to `device`, one at a time; does nothing to a network that has its own.

    Of a network that FSDP2 has cut, each process keeps its piece alone.

    Args:
        dtype: in which the network holds them; None: float32.
    """
    read = _READERS.pop(net, None)
    if read is None:
        return
    if dtype is not None:
        net.to(dtype)
    net.to_empty(device=device)
    for name, held in net.state_dict().items():
        local(held).copy_(piece_of(held, read(name)))


def bring_all(module: nn.Module, device: torch.device | str, dtype: torch.dtype | None = None) -> None:
    """`bring` for every network within `module`."""
    for net in [m for m in module.modules() if m in _READERS]:
        bring(net, device, dtype)


def give_up(net: nn.Module) -> None:
    """Leaves an unread `net` without any weights, on the host: others hold them in pieces."""
    if _READERS.pop(net, None) is not None:
        for weight in net.parameters():
            weight.data = weight.data.new_empty(0)
        net.to_empty(device="cpu")


class MayEndUnread(nn.Module):
    """A module of a run that may be stopped, or fail, before its networks are read: Lightning moves all to the host at
    its end, which would fail in place of what ended it."""

    def cpu(self) -> Self:
        return self if any(p.is_meta for p in self.parameters()) else super().cpu()
