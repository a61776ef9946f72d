"""Everything that is pretended, put up together: devices, world, kernels, modules that move, and the recorder."""

from __future__ import annotations

import contextlib
import gc
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

from adastate.rehearsal.accelerators import Accelerator
from adastate.rehearsal.fused_kernels import fused_kernels
from adastate.rehearsal.pretended_cuda import pretended_cuda
from adastate.rehearsal.pretended_world import pretended_world
from adastate.rehearsal.recorder import DeviceRecorder


@dataclass(frozen=True)
class Cluster:
    """Where a run is rehearsed.

    Attributes:
        device: of every rank.
        gpus: of a machine; nodes: machines.
        rank: the one that is looked at.
    """

    device: Accelerator
    gpus: int = 1
    nodes: int = 1
    rank: int = 0

    @property
    def world(self) -> int:
        return self.gpus * self.nodes


@contextlib.contextmanager
def pretended_machine(cluster: Cluster) -> Iterator[DeviceRecorder]:
    """Within, torch believes in the cluster; what runs there is written down by the recorder that comes.

    Raises:
        NoDeviceError: no device can be pretended here.
    """
    fake = FakeTensorMode(allow_non_fake_inputs=True)
    recorder = DeviceRecorder(fake)
    recorder.one_node = cluster.nodes == 1
    _forget_tables()
    gc.collect()
    gc.freeze()  # else each full collection looks through all that was imported
    device = pretended_cuda(cluster.device, cluster.gpus, recorder.synchronized, lambda: recorder.memory.now)
    with (
        device,
        pretended_world(cluster.rank, cluster.world, cluster.gpus),
        mock.patch.object(nn.Module, "_apply", _apply),
        mock.patch.object(torch, "compile", _uncompiled),
        mock.patch.object(FakeTensor, "data", property(_data, _set_data), create=True),
        mock.patch.object(torch.UntypedStorage, "resize_", _resizing(recorder), create=True),
        torch.autograd.set_multithreading_enabled(False),
        fake,
        recorder,
        fused_kernels(recorder.masked, recorder.waited),
    ):
        try:
            yield recorder
        finally:
            gc.unfreeze()
            _forget_tables()


def _forget_tables() -> None:
    """What functions keep from call to call, tables of positions say: each trial makes and counts its own, and nothing
    without data is left for what comes after it."""
    for name, module in list(sys.modules.items()):
        if name.startswith("adastate.") and not name.startswith("adastate.rehearsal"):
            for value in list(vars(module).values()):
                if callable(forget := getattr(value, "cache_clear", None)):
                    forget()


def _resizing(recorder: DeviceRecorder) -> Callable[..., Any]:
    true = torch.UntypedStorage.resize_

    def resize(storage: Any, size: int) -> Any:
        made = true(storage, size)
        recorder.memory.resized(storage)
        return made

    return resize


def _uncompiled(model: Any = None, **options: Any) -> Any:
    """Nothing is traced: operations are counted one by one."""
    return (lambda made: made) if model is None else model


def _data(x: Any) -> Any:
    return _DATA.__get__(x)


def _set_data(x: Any, value: Any) -> None:
    """Where the data lie, there the tensor is."""
    _DATA.__set__(x, value)
    if isinstance(value, FakeTensor):
        x.fake_device = value.fake_device


_DATA: Any = Tensor.data


def _apply(self: nn.Module, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> nn.Module:
    """nn.Module._apply for weights without data: a parameter stays the object that it is, as on a real device."""
    seen: set[int] = set()
    for module in self.modules():
        for name, p in module._parameters.items():
            if p is None or id(p) in seen:
                continue
            seen.add(id(p))
            with torch.no_grad():
                moved = fn(p)
            if moved is not p:
                _become(module, name, p, moved)
        for name, buffer in module._buffers.items():
            if buffer is not None:
                module._buffers[name] = fn(buffer)
    return self


def _become(module: nn.Module, name: str, p: nn.Parameter, moved: Tensor) -> None:
    if type(p.data) is type(moved):
        p.data = moved
    else:
        module._parameters[name] = nn.Parameter(moved.detach(), requires_grad=p.requires_grad)


def forget_data(module: nn.Module, fake: FakeTensorMode) -> None:
    """Gives the host's weights of a module up: from here on all of them are without data."""
    known: dict[int, nn.Parameter] = {}
    for part in module.modules():
        for name, p in list(part._parameters.items()):
            if p is not None and not isinstance(p, FakeTensor):
                if id(p) not in known:
                    made = fake.from_tensor(p.detach(), static_shapes=True)
                    known[id(p)] = nn.Parameter(made, requires_grad=p.requires_grad)
                part._parameters[name] = known[id(p)]
