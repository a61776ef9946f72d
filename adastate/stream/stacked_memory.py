"""One pass for several streams: what `PassMemory` is to one, for as many whose passes look alike.

With relative time all streams whose window is full see the same number of keys at the same RoPE indices, however old
they are: they differ in what is remembered alone, and that is a row of a batch.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from adastate.stream.cache import PassMemory
from adastate.types import FrameMask, Positions, Probe, Rotate, SlabTensors


def stacking_key(memory: PassMemory) -> tuple[object, ...] | None:
    """What the memories of two passes have to agree in to be stacked; None for one that cannot be."""
    if memory.slab_memory is not None:
        return None
    return (memory.places, memory.visible, memory.clean, memory.recache, memory.keeps)


class StackedMemory:
    """The `Memory` (adastate.types) of a pass whose rows are streams of their own.

    Args:
        members: memories of equal `stacking_key`, one a row.
    """

    def __init__(self, members: Sequence[PassMemory]) -> None:
        self.members, first = list(members), members[0]
        self.query_positions, self.key_positions = first.query_positions, first.key_positions
        self.visible: FrameMask | None = first.visible
        self.clean, self.keeps = first.clean, first.keeps
        self._remembered: dict[int, tuple[Tensor, Tensor]] = {}

    @property
    def stream_frames(self) -> tuple[int | None, ...]:
        raise RuntimeError("streams of several ages are in this pass: ask its members")

    @property
    def probe(self) -> Probe | None:
        return self._probe if any(m.probe is not None for m in self.members) else None

    def join(self, layer: int, raw: Tensor | None, k: Tensor, v: Tensor, rotate: Rotate) -> tuple[Tensor, Tensor]:
        past = self._read(layer, rotate)
        if raw is not None:  # it is where passes are kept alone
            for row, member in enumerate(self.members):
                # a copy: a stream that ends or is kept does not hold on to the others' memory
                member.stage(layer, raw[row : row + 1].to(k.dtype, copy=True), v[row : row + 1].clone())
        return (k, v) if past is None else (torch.cat([past[0], k], 1), torch.cat([past[1], v], 1))

    def slab_tensors(self, rotate: Rotate) -> SlabTensors | None:
        return None

    def _read(self, layer: int, rotate: Rotate) -> tuple[Tensor, Tensor] | None:
        at: Positions = self.members[0].remembered_positions
        if not at:
            return None
        if layer not in self._remembered:  # the passes of a chunk share their memories
            keys, values = zip(*(member.remembered(layer) for member in self.members), strict=True)
            self._remembered[layer] = (rotate(torch.cat(keys), at), torch.cat(values))
        return self._remembered[layer]

    def _probe(self, layer: int, q: Tensor, k: Tensor, visible: FrameMask | None) -> None:
        for row, member in enumerate(self.members):
            if member.probe is not None:
                member.probe(layer, q[row : row + 1], k[row : row + 1], visible)
