"""A network with a prompt, and how it is steered, as a stream calls it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from adastate.models.actions import Steering
from adastate.models.video_network import Engine, FusedPasses, TextKeys, VideoNetwork
from adastate.stream.stacked_memory import StackedMemory
from adastate.training.shared_passes import passes_of
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
        passes: fused ones that others share; without, it makes its own.
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
        passes: FusedPasses | None = None,
    ) -> None:
        self.net, self.text, self.fast, self.share, self.engine, self.fp8 = net, text, fast, share, engine, fp8
        self.steering = steering
        self._keys: list[tuple[Tensor, Tensor]] | None = None
        self._text: TextKeys | None = None
        self._passes = passes

    def other(self, text: Tensor, steering: Steering | None = None) -> PromptedNetwork:
        """The same network, as it is now, with another prompt, steered alike or by `steering`."""
        steering = self.steering if steering is None else steering
        bound = PromptedNetwork(self.net, text, self.fast, self.share, self.engine, self.fp8, steering)
        bound._passes = self._shared()
        return bound

    def steered(self, steering: Steering | None) -> PromptedNetwork:
        """The same network with the same prompt, steered otherwise."""
        bound = self.other(self.text, steering)
        bound._text = self._text
        return bound

    @property
    def passes_id(self) -> tuple[int, int]:
        """Equal for those whose passes can be run as one; see StackedNetwork."""
        return id(self.net), id(self._shared())

    def __call__(self, x: Tensor, t: Tensor, memory: Memory) -> Tensor:
        if not torch.is_grad_enabled():
            return self.quiet_pass(x, t, memory, self.quiet_keys, self.actions(x, memory))
        if self._keys is None or not self.share:
            self._keys = self.net.text_keys(self.text)
        actions = self.actions(x, memory)
        return self.net(
            x,
            t,
            self._keys,
            memory=memory,
            actions=None if actions is None else actions.to(x.device, non_blocking=True),
        )

    def actions(self, x: Tensor, memory: Memory) -> Tensor | None:
        """Those of a pass's frames `[B, F, A + 1]`, on the host; None where none are given."""
        rows = None if self.steering is None else self.steering.rows(memory.stream_frames)
        return None if rows is None else rows.expand(len(x), -1, -1)

    def _shared(self) -> FusedPasses | None:
        if self._passes is None and self.fast:
            self._passes = passes_of(self.net, self.text.device.type, self.engine, self.fp8)
        return self._passes

    @property
    def quiet_keys(self) -> TextKeys:
        """The prompt's keys as passes without gradient take them."""
        if self._text is None:
            with torch.no_grad():
                keys, passes = self.net.text_keys(self.text), self._shared()
                self._text = keys if passes is None else passes.text(keys)
        return self._text

    def quiet_pass(self, x: Tensor, t: Tensor, memory: Memory, text: TextKeys, actions: Tensor | None) -> Tensor:
        """A pass without gradient for these keys and actions, which are on the host."""
        passes = self._shared()
        if passes is not None:
            return passes(x, t, memory, text, actions)
        return self.net(
            x, t, text, memory=memory, actions=None if actions is None else actions.to(x.device, non_blocking=True)
        )


class StackedNetwork:
    """Several prompted networks that share their passes as one, a row each, over a StackedMemory, without gradient."""

    def __init__(self, members: Sequence[PromptedNetwork], keys: StackedKeys) -> None:
        self.members = list(members)
        self._text = keys([member.quiet_keys for member in self.members])

    def __call__(self, x: Tensor, t: Tensor, memory: StackedMemory) -> Tensor:
        each = [
            network.actions(x[row : row + 1], its)
            for row, (network, its) in enumerate(zip(self.members, memory.members, strict=True))
        ]
        told = next((rows for rows in each if rows is not None), None)
        if told is not None:  # all zeros is "not given"
            told = torch.cat([torch.zeros_like(told) if rows is None else rows for rows in each])
        return self.members[0].quiet_pass(x, t, memory, self._text, told)


class StackedKeys:
    """Keys of several prompts, a row each; the latest ones are kept, as streams stay together for many chunks."""

    MOST = 4

    def __init__(self) -> None:
        self._made: dict[tuple[int, ...], tuple[list[TextKeys], TextKeys]] = {}

    def __call__(self, prompts: list[TextKeys]) -> TextKeys:
        key = tuple(map(id, prompts))
        if key not in self._made:
            while len(self._made) >= self.MOST:
                del self._made[next(iter(self._made))]
            layers = zip(*prompts, strict=True)
            joined = [(torch.cat([k for k, _ in rows]), torch.cat([v for _, v in rows])) for rows in layers]
            self._made[key] = (prompts, joined)  # the prompts, too, or another could have the id of one
        return self._made[key][1]
