"""Equals Passes.run (wan/fused.py) for passes of constant shape: tests/models/test_engine.py.

As soon as a stream's window is full, all its passes have the same shapes and read the same tensors: one program for
the denoising passes and one for the clean ones serve an endless rollout, all levels and all prompts; steered passes,
whose frames have separate modulations, have two more, which serve all actions. `eager` runs every operation
individually, `compile` has torch.compile fuse them, `graph` captures them as CUDA graphs, which saves their launches.
Until the window is full, and where a mask hides frames, passes run eagerly.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from adastate.models.captured import Captured
from adastate.models.engine_pass import EnginePass, Modulations, Run, written
from adastate.models.video_network import Engine
from adastate.types import SlabTensors

BACKEND = "inductor"
"""Options of torch.compile."""

Steady = Callable[[Tensor, Modulations, EnginePass, SlabTensors, bool], Tensor | None]
"""The same for a pass that writes its keys and values itself."""


def steady(engine: Engine, run: Run, device: torch.device) -> Steady | None:
    """The engine's way to run passes of constant shape; None for `eager`.

    Raises:
        ValueError: the engine does not exist, or not on this device.
    """
    if engine == "eager":
        return None
    if engine == "compile":
        return Compiled(run)
    if engine == "graph" and device.type == "cuda":
        return Captured(run)
    raise ValueError(f"engine {engine!r} on {device.type}: use eager, compile, or, on a CUDA device, graph")


class Compiled:
    """Passes by torch.compile: one program per kind, with everything that changes passed as tensors."""

    def __init__(self, run: Run) -> None:
        self._run = torch.compile(written(run), backend=BACKEND, dynamic=False, fullgraph=True)

    def __call__(
        self, patches: Tensor, made: Modulations, pass_: EnginePass, slots: SlabTensors, clean: bool
    ) -> Tensor | None:
        assert made.stacked is not None
        table = torch.view_as_real(pass_.table)  # compilers do not support complex numbers
        fixed = (slots.keys, slots.values, slots.raw, slots.rows)
        return self._run(patches, *made.stacked, table, *fixed, pass_.text, pass_.batch, pass_.frame_tokens, clean)
