"""Fused passes that all streams of a network share as long as its weights are the same."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from adastate.models.backbones import fused
from adastate.models.video_network import Engine, FusedPasses, VideoNetwork, is_whole


def passes_of(net: VideoNetwork, device: str, engine: Engine, fp8: bool) -> FusedPasses | None:
    """Fused passes of a network with its weights as they are now; None where it has none, or is in pieces."""
    return fused(net, _mixed(device), engine, fp8) if is_whole(net) else None


def _mixed(device: str) -> torch.dtype | None:
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None


class SharedPasses:
    """The passes of one network: made once, with their joined weights, compiled programs and graphs.

    They are made anew once a weight has changed, or what was asked for. A copy of this begins empty.
    """

    def __init__(self) -> None:
        self._key: tuple[object, ...] = ()
        self._weights: list[tuple[weakref.ref[Tensor], int, int]] = []
        self._made: Callable[[], FusedPasses | None] = lambda: None
        self._kept: FusedPasses | None = None

    def __reduce__(self) -> Any:
        return SharedPasses, ()

    def of(self, net: VideoNetwork, engine: Engine, fp8: bool, keep: bool, version: int = 0) -> FusedPasses | None:
        """The passes of `net`.

        Args:
            keep: hold them for streams to come; without, they last as long as a stream has them.
            version: of weights that are changed behind torch's back.
        """
        device = next(net.parameters()).device.type
        key, made = (net.size, net.compute_dtype, _mixed(device), engine, fp8, version), self._made()
        if made is None or key != self._key or not self._holds(net):
            made = self._kept = None  # their memory goes before that of the next
            made = passes_of(net, device, engine, fp8)
            self._weights = [(weakref.ref(p), *_state(p)) for p in net.parameters()]
            self._key, self._made = key, (lambda: None) if made is None else weakref.ref(made)
        self._kept = made if keep else None
        return made

    def _holds(self, net: VideoNetwork) -> bool:
        """Whether these are the weights that the passes were made of, and none was written since."""
        now = list(net.parameters())
        return len(now) == len(self._weights) and all(
            ref() is p and (at, written) == _state(p) for p, (ref, at, written) in zip(now, self._weights, strict=True)
        )


def _state(weight: Tensor) -> tuple[int, int]:
    """Where it lies, and how often it was written."""
    return weight.data_ptr(), 0 if weight.is_inference() else weight._version
