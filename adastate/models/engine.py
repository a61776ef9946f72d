"""Equals Passes.run (wan/fused.py) for passes whose shape no longer changes: tests/models/test_engine.py.

As soon as a stream's window is full, all its passes have the same shapes and read the same tensors: one program for
the denoising passes and one for the clean ones serve an endless rollout, all levels and all prompts; steered passes,
whose frames have modulations of their own, have two more, which serve all actions. `eager` runs every
operation as it comes, `compile` has torch.compile fuse them, `graph` captures them as CUDA graphs, which spares their
launches. Until the window is full, and where a mask hides something, passes run eagerly.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from adastate.models.video_network import Engine, TextKeys
from adastate.types import FrameMask, Positions, Probe, Rotate, SlabTensors, TokenSplit

BACKEND = "inductor"
"""Of torch.compile."""

Join = Callable[[int, Tensor | None, Tensor, Tensor, Rotate], tuple[Tensor, Tensor]]
"""As Memory.join."""


class Modulation(NamedTuple):
    """What a timestep makes of a layer's norms and residuals, each `[D]` for one level or `[B F, D]`, one a frame."""

    scale: Tensor  # 1 + scale
    shift: Tensor
    gate: Tensor
    scale_ffn: Tensor
    shift_ffn: Tensor
    gate_ffn: Tensor


class Modulations(NamedTuple):
    """Those of all layers, and (1 + scale, shift) of the head."""

    blocks: list[Modulation]
    head: tuple[Tensor, Tensor]
    stacked: tuple[Tensor, Tensor] | None = None
    """Both as tensors, `[layers, 6, D]` and `[2, D]`, or `[layers, 6, B F, D]` and `[2, B F, D]`, where an engine wants
    them so."""


class EnginePass(NamedTuple):
    """What every block of one pass needs to know."""

    batch: int
    frame_tokens: int
    table: Tensor
    """RoPE of queries and keys `[L, 1, 1, K/2]`, or `[L, 2, 1, K/2]` where they stand apart."""
    keeps: bool
    """Whether raw keys are wanted."""
    visible: FrameMask | None
    join: Join
    turn: Rotate
    text: TextKeys
    probe: Probe | None = None
    split: TokenSplit | None = None
    """Over the ranks that share the pass."""
    key_positions: Positions = ()


Run = Callable[[Tensor, Modulations, EnginePass, bool], Tensor | None]
"""(patches, modulations, pass, clean) -> velocity in patches."""

Steady = Callable[[Tensor, Modulations, EnginePass, SlabTensors, bool], Tensor | None]
"""The same for a pass that writes its keys and values by itself."""


def steady(engine: Engine, run: Run, device: torch.device) -> Steady | None:
    """The engine's way to run a pass of fixed shape; None for `eager`.

    Raises:
        ValueError: there is no such engine, or not on this device.
    """
    if engine == "eager":
        return None
    if engine == "compile":
        return Compiled(run)
    if engine == "graph" and device.type == "cuda":
        return Captured(run)
    raise ValueError(
        f"engine {engine!r} on {device.type}: there are eager, compile, and graph, which needs a CUDA device"
    )


class Compiled:
    """Passes by torch.compile: one program a kind, which takes all that changes as tensors."""

    def __init__(self, run: Run) -> None:
        self._run = torch.compile(_written(run), backend=BACKEND, dynamic=False, fullgraph=True)

    def __call__(
        self, patches: Tensor, made: Modulations, pass_: EnginePass, slots: SlabTensors, clean: bool
    ) -> Tensor | None:
        assert made.stacked is not None
        table = torch.view_as_real(pass_.table)  # compilers know no complex numbers
        return self._run(patches, *made.stacked, table, *slots, pass_.text, pass_.batch, pass_.frame_tokens, clean)


class Captured:
    """Passes by CUDA graphs: one a kind and a slab, with the small inputs copied to where the graph reads them."""

    def __init__(self, run: Run) -> None:
        self._run = _written(run)
        self._graphs: dict[tuple[object, ...], _Graph] = {}

    def __call__(
        self, patches: Tensor, made: Modulations, pass_: EnginePass, slots: SlabTensors, clean: bool
    ) -> Tensor | None:
        assert made.stacked is not None
        text = [t for pair in pass_.text for t in pair]
        moving = [patches, *made.stacked, pass_.table, slots.rows, *text]
        kind = (clean, slots.keys.data_ptr(), *(t.shape for t in moving))
        if kind not in self._graphs:
            self._graphs = {k: v for k, v in self._graphs.items() if k[1] == kind[1]}  # those of an ended stream go

            def call(
                patches: Tensor, m: Tensor, h: Tensor, table: Tensor, index: Tensor, *text: Tensor
            ) -> Tensor | None:
                pairs = list(zip(text[::2], text[1::2], strict=True))
                fixed = (slots.keys, slots.values, slots.raw, index)
                return self._run(patches, m, h, table, *fixed, pairs, pass_.batch, pass_.frame_tokens, clean)

            self._graphs[kind] = _Graph(call, moving)
        return self._graphs[kind](moving)


class _Graph:
    """A function of tensors, captured on its first inputs. Its result is overwritten by the next call."""

    def __init__(self, call: Callable[..., Tensor | None], inputs: list[Tensor]) -> None:
        self._inputs, self._given = [t.clone() for t in inputs], list(inputs)
        aside = torch.cuda.Stream()
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(aside):  # libraries set themselves up on their first calls, which no graph may hold
            for _ in range(2):
                call(*self._inputs)
        torch.cuda.current_stream().wait_stream(aside)
        self._graph = torch.cuda.CUDAGraph()
        # thread_local: another thread may be decoding the chunk before, and allocate
        with torch.cuda.graph(self._graph, capture_error_mode="thread_local"):
            self._out = call(*self._inputs)

    def __call__(self, inputs: list[Tensor]) -> Tensor | None:
        for mine, before, given in zip(self._inputs, self._given, inputs, strict=True):
            if before is not given:  # a prompt's keys are the same tensors from pass to pass
                mine.copy_(given)
        self._given = list(inputs)
        self._graph.replay()
        return self._out


def stacked(made: Modulations) -> Modulations:
    """The same with everything in two tensors, too."""
    return made._replace(stacked=(torch.stack([torch.stack(m) for m in made.blocks]), torch.stack(made.head)))


def _written(run: Run) -> Callable[..., Tensor | None]:
    """`run` as a function of tensors alone."""

    def written(
        patches: Tensor,
        blocks: Tensor,
        head: Tensor,
        table: Tensor,
        keys: Tensor,
        values: Tensor,
        raw: Tensor | None,
        index: Tensor,
        text: TextKeys,
        batch: int,
        frame_tokens: int,
        clean: bool,
    ) -> Tensor | None:
        def join(layer: int, own: Tensor | None, k: Tensor, v: Tensor, turn: Rotate) -> tuple[Tensor, Tensor]:
            keys[layer].index_copy_(1, index, k)
            values[layer].index_copy_(1, index, v)
            if raw is not None and own is not None:
                raw[layer].index_copy_(1, index, own.to(raw.dtype))
            return keys[layer], values[layer]

        made = Modulations([Modulation(*m.unbind(0)) for m in blocks.unbind(0)], (head[0], head[1]))
        return run(
            patches, made, EnginePass(batch, frame_tokens, table, raw is not None, None, join, _no_turn, text), clean
        )

    return written


def _no_turn(k: Tensor, positions: tuple[int, ...]) -> Tensor:
    raise RuntimeError("slots are turned before the pass")
