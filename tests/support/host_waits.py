"""A device that has shapes alone, on which whatever the host would wait for is noted."""

from __future__ import annotations

import sys
from collections import Counter
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from adastate.diffusion import noise
from tests.support.tiny import ROOT

READS = {
    Tensor.item: lambda t: 1.0,
    Tensor.tolist: lambda t: torch.ones(t.shape).tolist(),
    Tensor.__bool__: lambda t: True,
    Tensor.__float__: lambda t: 1.0,
    Tensor.__int__: lambda t: 1,
    Tensor.cpu: lambda t: torch.ones(t.shape, dtype=t.dtype),
    Tensor.numpy: lambda t: torch.ones(t.shape, dtype=t.dtype).numpy(),
    torch.equal: lambda t, other: True,
}
"""What the host reads, and what it is told."""


def place() -> str:
    """Innermost line of the project on the way here."""
    frame: Any = sys._getframe(2)
    while frame is not None:
        path = Path(frame.f_code.co_filename)
        if path.is_relative_to(ROOT / "adastate"):
            return f"{path.relative_to(ROOT)}:{frame.f_code.co_name}"
        frame = frame.f_back
    return "elsewhere"


class Reads(TorchFunctionMode):
    """Notes every value that the host reads of a meta tensor, and gives it one."""

    def __init__(self) -> None:
        super().__init__()
        self.at: Counter[str] = Counter()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in READS and args[0].is_meta:
            self.at[f"{func.__name__} {place()}"] += 1
            return READS[func](*args)
        return func(*args, **(kwargs or {}))


class Copies(TorchDispatchMode):
    """Notes copies from the host that it waits for, boolean indices, and operations over tensors of both."""

    def __init__(self) -> None:
        super().__init__()
        self.at: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = func._overloadpacket.__name__
        tensors = [t for t in torch.utils._pytree.tree_leaves((args, kwargs)) if isinstance(t, Tensor)]
        to_meta = torch.device(kwargs.get("device") or "cpu").type == "meta"
        if name == "_to_copy" and to_meta and not tensors[0].is_meta and not kwargs.get("non_blocking"):
            self.at[f"copy {place()}"] += 1
        if name == "nonzero" and tensors[0].is_meta:
            self.at[f"nonzero {place()}"] += 1
            return torch.zeros(tensors[0].numel(), tensors[0].dim(), dtype=torch.int64, device="meta")
        if name in ("index", "index_put") and any(t.dtype == torch.bool for t in args[1] if t is not None):
            self.at[f"boolean index {place()}"] += 1
        if any(t.is_meta for t in tensors) and name not in ("copy_", "_to_copy"):
            for t in tensors:
                if not t.is_meta and t.dim():
                    self.at[f"host tensor in {name} {place()}"] += 1
        return func(*args, **kwargs)


def allow_meta(monkeypatch: Any) -> None:
    """Meta tensors take the generators of the host, and no notice of autocast, which does not know them."""
    make, enabled, autocast = noise.generator, torch.is_autocast_enabled, torch.autocast
    monkeypatch.setattr(noise, "generator", lambda *key, device="cpu": make(*key))
    monkeypatch.setattr(torch, "is_autocast_enabled", lambda device="cpu": device != "meta" and enabled(device))
    monkeypatch.setattr(
        torch, "autocast", lambda device, *a, **k: nullcontext() if device == "meta" else autocast(device, *a, **k)
    )
