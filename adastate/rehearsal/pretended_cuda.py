"""Answers of torch.cuda as on a node with GPUs; the real functions are restored afterwards."""

from __future__ import annotations

import contextlib
import importlib
from collections import defaultdict
from collections.abc import Callable, Iterator
from functools import partial
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from adastate.rehearsal.accelerators import Accelerator
from adastate.rehearsal.compiled_device import library

TRUE_GENERATOR = torch.Generator

FIRST = (
    "torch._dynamo.config", "torch._functorch.config", "torch.distributed.tensor", "torch._prims", "torch._decomp",
    "torch._refs", "torch.distributed.fsdp", "torch.utils.checkpoint", "lightning.pytorch",
)  # fmt: skip
"""Modules that look for GPUs when they are imported, and must find the real ones."""


class PretendedGenerator(TRUE_GENERATOR):
    """A host generator that records which device it was created for; nothing is drawn on a simulated device."""

    made_for: str

    def __new__(cls, device: Any = "cpu") -> PretendedGenerator:
        made = TRUE_GENERATOR.__new__(cls)
        made.made_for = torch.device(device).type
        return made

    def __init__(self, device: Any = "cpu") -> None:
        pass

    def manual_seed(self, seed: int) -> PretendedGenerator:
        DEVICES[seed % 2**63] = self.made_for
        TRUE_GENERATOR.manual_seed(self, seed)
        return self


DEVICES: dict[int, str] = {}
"""Device of the generator with a seed, as an operation receives another object than was created here."""


def device_of(generator: torch.Generator) -> str:
    return getattr(generator, "made_for", None) or DEVICES.get(generator.initial_seed() % 2**63, "cpu")


class PretendedStream:
    """Everything that code calls on a stream; nothing waits."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.device, self.device_index, self.device_type = torch.device("cuda", 0), 0, 1
        self.stream_id = self.cuda_stream = 0

    def wait_stream(self, stream: Any) -> None: ...

    def wait_event(self, event: Any) -> None: ...

    def record_event(self, event: Any = None) -> Any:
        return event or PretendedEvent()

    def query(self) -> bool:
        return True

    def synchronize(self) -> None:
        torch.cuda.synchronize()

    def __enter__(self) -> PretendedStream:
        return self

    def __exit__(self, *raised: object) -> None: ...


class PretendedEvent:
    def __init__(self, *args: Any, **kwargs: Any) -> None: ...

    def record(self, stream: Any = None) -> None: ...

    def wait(self, stream: Any = None) -> None: ...

    def query(self) -> bool:
        return True

    def synchronize(self) -> None:
        torch.cuda.synchronize()

    def elapsed_time(self, other: Any) -> float:
        return 1.0


class PretendedGraph:
    """A CUDA graph: the captured code runs once, and replays are counted by the line that made it."""

    replays = 0

    def __init__(self, *args: Any, **kwargs: Any) -> None: ...

    def replay(self) -> None:
        PretendedGraph.replays += 1

    def reset(self) -> None: ...

    def pool(self) -> tuple[int, int]:
        return (0, 0)


def answers(device: Accelerator, gpus: int, synchronized: Callable[[], None], allocated: Callable[[], int]) -> Any:
    """The result of each function of torch.cuda, by its name."""
    main = PretendedStream()
    total = int(device.memory_gib * 2**30)
    properties = SimpleNamespace(
        total_memory=total, name=device.name, major=device.capability[0], minor=device.capability[1],
        multi_processor_count=device.processors, warp_size=32, L2_cache_size=50 * 2**20, gcnArchName="",
    )  # fmt: skip

    def nothing(*args: Any, **kwargs: Any) -> None:
        return None

    def waits(*args: Any, **kwargs: Any) -> None:
        synchronized()

    said: dict[str, Any] = {
        "is_available": lambda: True,
        "is_initialized": lambda: False,
        "device_count": lambda: gpus,
        "current_device": lambda: 0,
        "get_device_capability": lambda d=None: device.capability,
        "get_device_name": lambda d=None: device.name,
        "get_device_properties": lambda d=None: properties,
        "current_stream": lambda d=None: main,
        "default_stream": lambda d=None: main,
        "stream": lambda s: contextlib.nullcontext(),
        "device": lambda d: contextlib.nullcontext(),
        "graph": lambda *a, **k: contextlib.nullcontext(),
        "is_bf16_supported": lambda *a, **k: True,
        "is_current_stream_capturing": lambda: False,
        "get_rng_state": lambda *a, **k: torch.zeros(16, dtype=torch.uint8),
        "get_rng_state_all": lambda *a, **k: [],
        "memory_stats": lambda d=None: defaultdict(int),
        "mem_get_info": lambda d=None: (total - allocated(), total),
        "synchronize": waits,
        "empty_cache": waits,
        "Stream": PretendedStream,
        "Event": PretendedEvent,
        "CUDAGraph": PretendedGraph,
    }
    for name in ("set_device", "manual_seed", "manual_seed_all", "set_rng_state", "set_stream", "init",
                 "set_rng_state_all", "reset_peak_memory_stats", "reset_max_memory_allocated", "ipc_collect",
                 "reset_accumulated_memory_stats", "_lazy_init", "_sleep"):  # fmt: skip
        said[name] = nothing
    for name in ("memory_allocated", "max_memory_allocated", "memory_reserved", "max_memory_reserved"):
        said[name] = lambda d=None: allocated()
    for name, dtype in TYPES.items():
        said[name] = partial(_typed, dtype)
    return said


def _typed(dtype: torch.dtype, *values: Any) -> Tensor | None:
    """Like torch.cuda.FloatTensor and similar constructors."""
    return torch.tensor(values[0], dtype=dtype, device="cuda:0") if values else None


TYPES = {
    "FloatTensor": torch.float32, "HalfTensor": torch.float16, "BFloat16Tensor": torch.bfloat16,
    "IntTensor": torch.int32, "ByteTensor": torch.uint8, "LongTensor": torch.int64, "DoubleTensor": torch.float64,
}  # fmt: skip


@contextlib.contextmanager
def pretended_cuda(
    device: Accelerator, gpus: int, synchronized: Callable[[], None], allocated: Callable[[], int]
) -> Iterator[None]:
    """In this context this process has `gpus` of `device`, of which the first is the current one.

    Args:
        synchronized: called where the host would wait for all work of the device.
        allocated: bytes in use on the device.

    Raises:
        NoDeviceError: see `library`.
    """
    for module in FIRST:
        importlib.import_module(module)
    shim = library()
    current = torch.device("cuda", 0)
    changes: list[tuple[Any, str, Any]] = [
        *((torch.cuda, name, value) for name, value in answers(device, gpus, synchronized, allocated).items()),
        (torch.accelerator, "current_accelerator", lambda check_available=False: torch.device("cuda")),
        (torch.accelerator, "is_available", lambda: True),
        (torch.accelerator, "device_count", lambda: gpus),
        (torch.accelerator, "current_device_index", lambda: current.index),
        (torch.accelerator, "synchronize", lambda *a, **k: synchronized()),
        (torch, "Generator", PretendedGenerator),
        (torch.Tensor, "record_stream", lambda self, stream: None),
        (torch.cuda.nvtx, "range_push", lambda *a: None),
        (torch.cuda.nvtx, "range_pop", lambda *a: None),
    ]
    with contextlib.ExitStack() as stack:
        for owner, name, value in changes:
            stack.callback(_put_back, owner, name, vars(owner).get(name, _ABSENT))
            setattr(owner, name, value)
        lifted = torch._C._only_lift_cpu_tensors()
        torch._C._set_only_lift_cpu_tensors(True)
        stack.callback(torch._C._set_only_lift_cpu_tensors, lifted)
        shim.adastate_pretend()
        stack.callback(shim.adastate_restore)
        yield


_ABSENT = object()


def _put_back(owner: Any, name: str, before: Any) -> None:
    if before is _ABSENT:
        delattr(owner, name)
    else:
        setattr(owner, name, before)
