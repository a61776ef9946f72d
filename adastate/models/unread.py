"""Networks whose weights are not read from their files until their device is known.

Until then a network is on torch's meta device, where it takes no memory. If a process read its networks at once, it
would hold all of them in float32 on the host before moving them to its GPU, and so would every other process of a
machine.
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
"""Returns the full weight with a name, as stored in the file."""

_LATER = ContextVar("later", default=False)
_READERS: WeakKeyDictionary[nn.Module, Read] = WeakKeyDictionary()


@contextmanager
def reading_later() -> Iterator[None]:
    """Within this context, networks with weights from a file are created unread."""
    token = _LATER.set(True)
    try:
        yield
    finally:
        _LATER.reset(token)


def may_wait() -> bool:
    """Whether networks that are created now are to be left unread."""
    return _LATER.get()


def leave(net: nn.Module, read: Read) -> None:
    """Registers how the weights of `net`, which is on the meta device, are read later."""
    _READERS[net] = read


def leave_copy(copy: nn.Module, net: nn.Module) -> None:
    """If `net` is unread, registers the same weights for `copy`; otherwise `copy` already has them."""
    if net in _READERS:
        _READERS[copy] = _READERS[net]


def whole_weight(net: nn.Module, name: str) -> Tensor:
    """One weight of `net`: its own, or read from the file if the network is unread."""
    return _READERS[net](name) if net in _READERS else net.get_parameter(name).detach()


@torch.no_grad()
def bring(net: nn.Module, device: torch.device | str, dtype: torch.dtype | None = None) -> None:
    """Reads the weights of `net` straight to `device`, one at a time; does nothing for a network that is read already.

    If FSDP2 has sharded the network, each process keeps only its shard.

    Args:
        dtype: of the network's weights; None: float32.
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
    """Leaves an unread `net` on the host without weights: other processes hold its shards."""
    if _READERS.pop(net, None) is not None:
        for weight in net.parameters():
            weight.data = weight.data.new_empty(0)
        net.to_empty(device="cpu")


class MayEndUnread(nn.Module):
    """A module whose run may end before its networks are read: Lightning then moves all weights to the host, which
    would fail on the meta device and hide the cause."""

    def cpu(self) -> Self:
        return self if any(p.is_meta for p in self.parameters()) else super().cpu()
