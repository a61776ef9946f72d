"""All simulated parts together: devices, world, kernels, modules that move, and the recorder."""

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
    """The cluster that a run is rehearsed on.

    Attributes:
        device: of every rank.
        gpus: per machine; nodes: machines.
        rank: the rank that is reported on.
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
    """In this context torch runs as on the cluster; the yielded recorder records what happens.

    Raises:
        NoDeviceError: no device can be simulated here.
    """
    fake = FakeTensorMode(allow_non_fake_inputs=True)
    recorder = DeviceRecorder(fake)
    recorder.one_node = cluster.nodes == 1
    _forget_tables()
    gc.collect()
    gc.freeze()  # else each full collection scans all imported modules
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
    """Clears the caches of functions, such as position tables: each trial creates and counts its own, and no tensors
    without data remain for later code."""
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
    """Does not compile: operations are counted one by one."""
    return (lambda made: made) if model is None else model


def _data(x: Any) -> Any:
    return _DATA.__get__(x)


def _set_data(x: Any, value: Any) -> None:
    """Also moves the tensor to the device of its new data."""
    _DATA.__set__(x, value)
    if isinstance(value, FakeTensor):
        x.fake_device = value.fake_device


_DATA: Any = Tensor.data


def _apply(self: nn.Module, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> nn.Module:
    """nn.Module._apply for weights without data: a parameter remains the same object, as on a real device."""
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
    """Replaces the host's weights of a module by tensors without data."""
    known: dict[int, nn.Parameter] = {}
    for part in module.modules():
        for name, p in list(part._parameters.items()):
            if p is not None and not isinstance(p, FakeTensor):
                if id(p) not in known:
                    made = fake.from_tensor(p.detach(), static_shapes=True)
                    known[id(p)] = nn.Parameter(made, requires_grad=p.requires_grad)
                part._parameters[name] = known[id(p)]
