"""Changes of the prompt in a stream that runs."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from adastate.stream import PromptSwitch, SwitchPolicy
from adastate.stream.passes import VelocityNetwork


class PromptTurns(dict[int, PromptSwitch[VelocityNetwork]]):
    """Changes of the prompt by chunk, to which more may come while a stream runs: they hold from its next chunk on."""

    def __init__(self) -> None:
        super().__init__()
        self.planned: dict[int, tuple[Tensor, SwitchPolicy | None]] = {}
        self.pending: tuple[Tensor, SwitchPolicy | None] | None = None
        self.bind: Callable[[Tensor], VelocityNetwork] = lambda embeds: _unbound()

    def plan(self, chunk: int, embeds: Tensor, policy: SwitchPolicy | None) -> None:
        self.planned[chunk] = (embeds, policy)

    def turn(self, embeds: Tensor, policy: SwitchPolicy) -> None:
        self.pending = (embeds, policy)

    def __bool__(self) -> bool:
        return True

    def __contains__(self, chunk: object) -> bool:
        return chunk in self.planned or self.pending is not None

    def __getitem__(self, chunk: int) -> PromptSwitch[VelocityNetwork]:
        if not super().__contains__(chunk):
            embeds, policy = self.planned.get(chunk) or self.pending or (torch.empty(0), None)
            self.pending = None
            self[chunk] = PromptSwitch(self.bind(embeds), policy)
        return super().__getitem__(chunk)


def _unbound() -> VelocityNetwork:
    raise RuntimeError("a prompt is bound when its stream has begun")
