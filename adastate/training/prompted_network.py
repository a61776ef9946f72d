"""A network with a prompt, and how it is steered, as a stream calls it."""

from __future__ import annotations

import torch
from torch import Tensor

from adastate.models.actions import Steering
from adastate.models.backbones import fused
from adastate.models.video_network import Engine, FusedPasses, VideoNetwork, is_whole
from adastate.stream.passes import VelocityNetwork
from adastate.types import Memory


class PromptedNetwork:
    """The network with a prompt bound: (x, t, memory) -> velocity. Text keys are made once, and once under a graph.

    Passes without gradient are the fused ones where the weights are whole. They hold them as they are now, so a
    PromptedNetwork is for one rollout: after an optimiser's step there has to be another. With `share` one graph of the
    text keys serves all passes with gradient; without, each has its own, so that each can have a backward of its own.

    Args:
        text: embeddings `[B, Lt, text_width]`.
        engine, fp8: of the passes without gradient, see Backbone.fused.
        steering: the actions of all frames, which every pass asks for; without, no pass is steered.
    """

    def __init__(
        self,
        net: VideoNetwork,
        text: Tensor,
        fast: bool = True,
        share: bool = True,
        engine: Engine = "eager",
        fp8: bool = False,
        steering: Steering | None = None,
    ) -> None:
        self.net, self.text, self.fast, self.share, self.engine, self.fp8 = net, text, fast, share, engine, fp8
        self.steering = steering
        self._keys: list[tuple[Tensor, Tensor]] | None = None
        self._quiet: VelocityNetwork | None = None
        self._passes: FusedPasses | None = None

    def other(self, text: Tensor) -> PromptedNetwork:
        """The same network, as it is now and steered alike, with another prompt."""
        bound = PromptedNetwork(self.net, text, self.fast, self.share, self.engine, self.fp8, self.steering)
        bound._passes = self._shared()
        return bound

    def __call__(self, x: Tensor, t: Tensor, memory: Memory) -> Tensor:
        if not torch.is_grad_enabled():
            if self._quiet is None:
                self._quiet = self._without_gradient()
            return self._quiet(x, t, memory)
        if self._keys is None or not self.share:
            self._keys = self.net.text_keys(self.text)
        actions = self._actions(x, memory)
        return self.net(x, t, self._keys, memory=memory, actions=None if actions is None else actions.to(x.device))

    def _actions(self, x: Tensor, memory: Memory) -> Tensor | None:
        """Those of a pass's frames `[B, F, A + 1]`, on the host; None where none are given."""
        rows = None if self.steering is None else self.steering.rows(memory.stream_frames)
        return None if rows is None else rows.expand(len(x), -1, -1)

    def _shared(self) -> FusedPasses | None:
        if self._passes is None and self.fast and is_whole(self.net):
            device = self.text.device.type
            mixed = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None
            self._passes = fused(self.net, mixed, self.engine, self.fp8)
        return self._passes

    def _without_gradient(self) -> VelocityNetwork:
        keys, passes = self.net.text_keys(self.text), self._shared()
        if passes is not None:
            text = passes.text(keys)
            return lambda x, t, memory: passes(x, t, memory, text, self._actions(x, memory))

        def plain(x: Tensor, t: Tensor, memory: Memory) -> Tensor:
            actions = self._actions(x, memory)
            return self.net(x, t, keys, memory=memory, actions=None if actions is None else actions.to(x.device))

        return plain
