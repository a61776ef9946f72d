"""The interface of an initialisation, and what it sees of the student."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from adastate.diffusion.noise import SampleNoise
from adastate.models.video_network import VideoNetwork
from adastate.stream import StreamSpec
from adastate.types import Batch


@dataclass(frozen=True)
class StudentNetworks:
    """The student as its initialisation sees it.

    Attributes:
        net: learns.
        average: of its weights.
        frozen: the network of `Initialization.frozen_weights`, if there is one.
        spec: the student's stream.
        embed: prompts to embeddings `[B, L, D]`.
    """

    net: VideoNetwork
    average: VideoNetwork
    frozen: VideoNetwork | None
    spec: StreamSpec
    embed: Callable[[list[str]], Tensor]


class Initialization(Protocol):
    """The loss of a stage that initialises the student; it holds no weights.

    Attributes:
        frozen_weights: file of a network of the student's geometry that the loss asks, too; None: it asks none.
        uses_average: whether the loss runs the averaged network, which then has to be whole in every step.
    """

    frozen_weights: str | None
    uses_average: bool

    def check(self, spec: StreamSpec) -> None:
        """Called once, when the student is made.

        Raises:
            ValueError: for a stream that it does not go together with.
        """

    def loss(self, networks: StudentNetworks, batch: Batch, noise: SampleNoise) -> Tensor:
        """Of one batch, a scalar with a graph to `networks.net`; a class has to have this signature, types included."""
