"""Runs real code on fake CUDA tensors and records what it does: work, memory, waits, copies, mistakes.

Host tensors are real, so that draws, prompts and positions are those of a run; device tensors have shapes, dtypes and a
device, but no data. While a run is built, large host tensors have no data either.
"""

from __future__ import annotations

import contextlib
from collections import Counter, defaultdict
from collections.abc import Iterator
from functools import lru_cache, reduce
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode, unset_fake_temporarily
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map

from adastate.rehearsal.device_memory import DeviceMemory
from adastate.rehearsal.fused_kernels import is_made_of_others, made_on_a_gpu
from adastate.rehearsal.host_answers import UNANSWERED, HostAnswers
from adastate.rehearsal.known_results import KnownResults, tensors_among
from adastate.rehearsal.pretended_cuda import TRUE_GENERATOR, device_of
from adastate.rehearsal.source_lines import asked_by_a_library, asked_by_an_engine, line
from adastate.rehearsal.workload import FREE, Operation, Workload, cost_of, kind_of, tensor_bytes

aten = torch.ops.aten
LARGE = 2**16
"""Host tensors with at least this many numbers are created without data while a run is built."""

INDEXED = ("index", "index_put", "index_put_", "_unsafe_index", "_index_put_impl_")
"""Operations whose indices may be on the host: torch copies them."""

COPIES = (aten._to_copy.default, aten.copy_.default)
WIDE_TYPES = (torch.float64, torch.complex128)
REMEMBERED = 2**18
"""Maximum size of tensors from the host whose values are remembered for their return: levels of a trajectory, or the
thousands of modules whose order DeepSpeed compares between ranks."""

SMALL = 2**16
ON_PURPOSE = ("adastate/diffusion/",)
"""Code that uses latents in float64 on purpose, as the references do; and the size below which float64 is fine."""

BETWEEN = "between"
"""Phase between the others, in which callbacks run and batches arrive."""

MASK_LIMIT = 2**28
"""Size of an attention mask, or of any boolean tensor, above which it is reported as a mistake."""


class DeviceRecorder(TorchDispatchMode):
    """Keeps one Workload per phase, and everything else by the line at which it happened.

    Attributes:
        entries: how often each phase began.
        waits: the host waited for the device, by (phase, what, line).
        copies: number of copies from the host to the device, by (phase, line).
        copied: the same in bytes.
        engines: (phase, line) of actions of DeepSpeed or Lightning itself.
        wide: 64-bit numbers that an operation created on the device, by (phase, operation, line).
        single: FLOP of products and attention in float32, by (phase, line).
        mistakes: messages by (kind of mistake, line).
    """

    def __init__(self, fake: FakeTensorMode) -> None:
        super().__init__()
        self.fake = fake
        self.memory = DeviceMemory(lambda: line(4))
        self.known = KnownResults(fake, self.memory.note)
        self.host = HostAnswers(self, fake, self.memory.note)
        self.phase = "start"
        self.entries: Counter[str] = Counter()
        self.work: dict[str, Workload] = defaultdict(Workload)
        self.waits: Counter[tuple[str, str, str]] = Counter()
        self.copies: Counter[tuple[str, str]] = Counter()
        self.copied: Counter[tuple[str, str]] = Counter()
        self.engines: set[tuple[str, str]] = set()
        self.wide: Counter[tuple[str, str, str]] = Counter()
        self.single: Counter[tuple[str, str]] = Counter()
        self.mistakes: dict[tuple[str, str], str] = {}
        self.building = False
        self.one_node = True

    # ---- phases

    def enter(self, phase: str) -> None:
        self.phase = phase
        self.entries[phase] += 1
        self.memory.enter(phase)

    @contextlib.contextmanager
    def within(self, phase: str) -> Iterator[None]:
        before = self.phase
        self.enter(phase)
        try:
            yield
        finally:
            self.enter(before)
            self.entries[before] -= 1

    @contextlib.contextmanager
    def building_run(self) -> Iterator[None]:
        self.building = True
        try:
            yield
        finally:
            self.building = False

    def restart(self) -> None:
        """Resets the counts, but not memory in use and mistakes."""
        self.work.clear()
        self.waits.clear()
        self.copies.clear()
        self.copied.clear()
        self.wide.clear()
        self.single.clear()
        self.entries.clear()
        self.memory.restart()

    # ---- events

    def waited(self, what: str) -> None:
        if self.phase == BETWEEN and asked_by_a_library():  # Lightning collects logged values
            return
        self._happened(self.waits, what, line(3))

    def synchronized(self) -> None:
        self._happened(self.waits, "a wait for all work of the device", line(3))

    def _happened(self, events: Counter[Any], *what: str) -> None:
        events[(self.phase, *what)] += 1
        if asked_by_an_engine():
            self.engines.add((self.phase, what[-1]))

    def mistake(self, kind: str, said: str) -> None:
        where = line(3)
        self.mistakes.setdefault((kind, where), f"{where}: {said}")

    def masked(self, mask: Tensor) -> None:
        if mask.numel() > MASK_LIMIT:
            shape = " x ".join(map(str, mask.shape))
            self.mistake(
                "mask", f"a mask of {shape} is {tensor_bytes(mask) / 2**30:.1f} GiB: attend in groups of equal rows"
            )

    # ---- operations

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if _is_of_others(types):
            return NotImplemented  # it is called again with the local shards
        if torch.is_inference_mode_enabled() and is_made_of_others(func):
            if func is aten.scaled_dot_product_attention.default and len(args) > 3 and args[3] is not None:
                self.masked(args[3])
            with self:
                return made_on_a_gpu(func, args, kwargs)
        tensors: list[Tensor] = []
        drawn = tensors_among(args, tensors) | tensors_among(kwargs.values(), tensors)
        key = self.known.key(func, args, kwargs) if tensors and not drawn else None
        if key is not None and (found := self.known.again(key, tensors)) is not None:
            if found[0].cost is not None:
                self.work[self.phase].operations[found[0].cost] += 1
            return found[1]
        return self._run(func, args, kwargs, tensors, key)

    def _run(self, func: Any, args: Any, kwargs: Any, tensors: list[Tensor], key: Any) -> Any:
        fakes = [x for x in tensors if isinstance(x, FakeTensor)]
        target = _type(kwargs.get("device"))
        if not fakes and target != "cuda":
            return self._on_host(func, args, kwargs, tensors)
        there = any(x.fake_device.type == "cuda" for x in fakes)
        if there or target == "cuda":
            args, kwargs = self._generator(args, kwargs, target or "cuda")
        if not fakes and tensors:
            return self._to_device(func, args, kwargs, tensors)
        if there:
            found = self.host.answer(func, args, kwargs, fakes, target)
            if found is not UNANSWERED:
                return found
            if len(fakes) < len(tensors) or key is None:
                args, kwargs = self._strays(func, args, kwargs, tensors)
        elif func is aten._local_scalar_dense.default:
            return 1.0 if fakes[0].is_floating_point() else 1
        elif target == "cuda" and func is aten._to_copy.default:
            self._copy(tensor_bytes(fakes[0]))  # weights that stay on the host, such as a text encoder's
        with self.fake:
            out = func(*args, **kwargs)
        outputs = [x for x in tree_flatten(out)[0] if isinstance(x, Tensor)]
        self._note(outputs)
        if there or target == "cuda":
            cost, common = self._count(func, args, kwargs, out, fakes, outputs)
            if key is not None and target != "cpu" and common:
                self.known.keep(key, func, tensors, out, cost)
        return out

    def _on_host(self, func: Any, args: Any, kwargs: Any, tensors: list[Tensor]) -> Any:
        if any(isinstance(x, TRUE_GENERATOR) and device_of(x) != "cpu" for x in (*args, *kwargs.values())):
            args, kwargs = self._generator(args, kwargs, "cpu")
        with unset_fake_temporarily():
            if not self.building or tensors:
                return func(*args, **kwargs)
        if _is_factory(func) and _asked_for(args) >= LARGE:
            with self.fake:
                return func(*args, **kwargs)
        with unset_fake_temporarily():
            return func(*args, **kwargs)

    def _note(self, outputs: list[Tensor]) -> None:
        for x in outputs:
            if isinstance(x, FakeTensor) and x.fake_device.type == "cuda":
                self.memory.note(x)
                if _is_too_much(x):
                    shape, what = " x ".join(map(str, x.shape)), "truth values" if x.dtype is torch.bool else "pairs"
                    self.mistake("mask", f"{what} of {shape} are {tensor_bytes(x) / 2**30:.1f} GiB on the device")

    def _generator(self, args: Any, kwargs: Any, target: str) -> tuple[Any, Any]:
        made = next((x for x in (*args, *kwargs.values()) if isinstance(x, TRUE_GENERATOR)), None)
        if made is None:
            return args, kwargs
        have = device_of(made)
        if have != target:
            self.mistake(
                "generator",
                f"a generator of the {_said(have)} draws on the {_said(target)}, which torch does not allow",
            )

        def without(x: Any) -> Any:
            return None if isinstance(x, TRUE_GENERATOR) else x

        return tree_map(without, args), tree_map(without, kwargs)

    def _to_device(self, func: Any, args: Any, kwargs: Any, tensors: list[Tensor]) -> Any:
        self._copy(sum(map(tensor_bytes, tensors)))
        convert = self._fake
        with self.fake:
            out = func(*tree_map(convert, args), **tree_map(convert, kwargs))
        self._note([out] if isinstance(out, Tensor) else [])
        if func is aten._to_copy.default and tensors[0].numel() <= REMEMBERED:
            out.known = tensors[0]
        return out

    def _copy(self, size: int) -> None:
        where = line(4)
        self._happened(self.copies, where)
        self.copied[self.phase, where] += size

    def _fake(self, x: Any) -> Any:
        if isinstance(x, Tensor) and not isinstance(x, FakeTensor):
            return self.fake.from_tensor(x, static_shapes=True)
        return x

    def _strays(self, func: Any, args: Any, kwargs: Any, tensors: list[Tensor]) -> tuple[Any, Any]:
        """Host tensors among device tensors: allowed with a single number only."""
        wrong = False
        for x in tensors:
            if _type_of(x) != "cpu":
                continue
            if func in COPIES or (_name(func) in INDEXED and not x.is_floating_point()):
                self._copy(tensor_bytes(x))
            elif x.dim() == 0:
                self.copies[self.phase, line(3)] += 0  # an argument of the kernel, not a copy
            else:
                shape, wrong = tuple(x.shape), True
                self.mistake("device", f"a tensor {shape} on the host is combined with device tensors in {_name(func)}")
        if not wrong and _name(func) not in INDEXED:
            return tree_map(self._fake, args), tree_map(self._fake, kwargs)

        def moved(x: Any) -> Any:
            if isinstance(x, Tensor) and _type_of(x) == "cpu" and x.dim():
                with self.fake:
                    return aten._to_copy.default(self._fake(x), device=torch.device("cuda", 0))
            return self._fake(x)

        return tree_map(moved, args), tree_map(moved, kwargs)

    def _count(
        self, func: Any, args: Any, kwargs: Any, out: Any, fakes: list[Any], outputs: list[Tensor]
    ) -> tuple[Operation | None, bool]:
        """Records the cost of an operation; returns whether there is nothing else to report about it."""
        work = self.work[self.phase]
        if func.namespace in ("c10d", "_c10d_functional"):
            if func._overloadpacket.__name__ not in ("wait_tensor", "barrier"):
                work.one_node = self.one_node
                work.sent += sum(map(tensor_bytes, fakes))
            return None, False
        wide = [x for x in outputs if x.dtype in WIDE_TYPES] if _name(func) not in FREE else []
        if wide:
            self._wide(func, wide[0])
        cost = cost_of(func, args, kwargs, out, fakes, outputs)
        single = False
        if cost is not None:
            work.operations[cost] += 1
            if single := cost.kind != "other" and cost.dtype is torch.float32:
                self.single[self.phase, line(3)] += cost.flop
        return cost, not (wide or single or any(map(_is_too_much, outputs)))

    def _wide(self, func: Any, x: Tensor) -> None:
        if asked_by_a_library():  # DeepSpeed sums its norms this way
            return
        where, name = line(3), _name(func)
        self.wide[self.phase, name, where] += 1
        backward = torch._C._current_graph_task_id() != -1  # then the line is where the backward pass was called
        large = x.numel() > SMALL and not backward and not where.startswith(ON_PURPOSE)
        if large or kind_of(name) != "other":
            self.mistake("float64", f"{name} makes {tuple(x.shape)} in {_dtype(x)} on the device: use float32 or less")


OTHERS = ("DTensor", "AsyncCollectiveTensor")


@lru_cache(maxsize=256)
def _is_of_others(types: tuple[type, ...]) -> bool:
    return any(kind.__name__ in OTHERS for kind in types)


def _type(device: Any) -> str | None:
    return None if device is None else torch.device(device).type


def _type_of(x: Tensor) -> str:
    return x.fake_device.type if isinstance(x, FakeTensor) else x.device.type


def _said(device: str) -> str:
    return "host" if device == "cpu" else "device"


def _name(func: Any) -> str:
    return str(func._overloadpacket.__name__)


def _is_too_much(x: Tensor) -> bool:
    """Whether it is a large boolean mask, or has numbers for all pairs of many items."""
    square = x.dim() > 1 and x.shape[-1] == x.shape[-2]
    return x.numel() > MASK_LIMIT and x.is_contiguous() and (square or x.dtype is torch.bool)


def _dtype(x: Tensor) -> str:
    return str(x.dtype).removeprefix("torch.")


def _is_factory(func: Any) -> bool:
    return _name(func) in ("empty", "zeros", "ones", "full", "rand", "randn", "empty_strided", "randint")


def _asked_for(args: Any) -> int:
    shape = next((x for x in args if isinstance(x, list | tuple)), ())
    return reduce(lambda a, b: a * b, shape, 1)
