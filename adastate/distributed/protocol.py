"""The networks that a module trains, and what a strategy does with each of them in its own way."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, cast, runtime_checkable

import lightning.pytorch as pl
from torch import Tensor

from adastate.models import unread
from adastate.models.fsdp import shard
from adastate.models.lora import Lora, adapt
from adastate.models.video_network import Size, VideoNetwork
from adastate.optim import adamw
from adastate.optim.ema import EMA
from adastate.weights import load_network


@dataclass(frozen=True)
class TrainedNetwork:
    """A network that learns, with what belongs to it.

    Attributes:
        name: in logs, checkpoints and errors.
        net: its weights.
        average: of them, where one is kept.
        gradient_clip_norm: to which the norm of its gradient is clipped.
    """

    name: str
    net: VideoNetwork
    average: EMA | None
    gradient_clip_norm: float


class TrainedModule(Protocol):
    """What strategies look at in a module: Distill, Teacher and Student have it."""

    @property
    def trained(self) -> Mapping[str, TrainedNetwork]:
        """By name, in the order of their optimisers."""

    @property
    def frozen(self) -> Mapping[str, VideoNetwork]: ...

    @property
    def accumulate(self) -> int:
        """Micro batches a step."""


@runtime_checkable
class NetworkStrategy(Protocol):
    """What a strategy does for each trained network in its own way.

    A strategy of Lightning's that has not these methods, and FsdpStrategy, takes those of `PLAIN`. One that has them is
    told by `manual_backward(loss, network=...)` which network a backward pass is for; where Lightning optimises, there
    is only one.
    """

    @property
    def one_backward_per_batch(self) -> bool:
        """Whether a network must have exactly one backward pass a micro batch."""

    @property
    def averages_are_whole(self) -> bool:
        """Whether `TrainedNetwork.average` can be run as it is, in the middle of training."""

    def clip_gradient(self, network: TrainedNetwork) -> Tensor:
        """Clips before an automatic step, or leaves that to the step; returns the norm before."""

    def clipped_step(self, network: TrainedNetwork, optimizer: Any, permit: Callable[[Tensor], bool]) -> Tensor:
        """One manual step with the gradient clipped, if `permit` says so of its norm before; returns that norm.

        The gradient is gone afterwards in either case.
        """


class PlainSteps:
    """A NetworkStrategy by torch's own gradients: whole ones, or FSDP2's pieces."""

    one_backward_per_batch = False
    averages_are_whole = True

    def clip_gradient(self, network: TrainedNetwork) -> Tensor:
        return adamw.clip_gradient(network.net, network.gradient_clip_norm)

    def clipped_step(self, network: TrainedNetwork, optimizer: Any, permit: Callable[[Tensor], bool]) -> Tensor:
        return adamw.clipped_step(network.net, optimizer, network.gradient_clip_norm, permit)


PLAIN = PlainSteps()


def steps_of(strategy: Any) -> NetworkStrategy:
    """How `strategy` steps the networks of a module."""
    return strategy if isinstance(strategy, NetworkStrategy) else PLAIN


def learner(size: Size, weights: str | None, lora: Lora | None, **options: Any) -> VideoNetwork:
    """A network that is to learn: with `lora` only its adapters do. Arguments as of `network` and `adapt`."""
    net = load_network(size, weights, **options)
    if lora is not None:
        unread.bring(net, "cpu")  # adapters are drawn where the weights are
    adapt(net, lora, weights)
    return net


def trained_module(module: pl.LightningModule | None, strategy: str) -> TrainedModule:
    """`module` as `strategy` looks at it.

    Raises:
        TypeError: it does not name its networks.
    """
    missing = [n for n in ("trained", "frozen", "accumulate") if not hasattr(type(module), n)]
    if missing:
        raise TypeError(
            f"{strategy} cannot train {type(module).__name__}, which has no {', '.join(missing)} as Distill has; "
            "use conf/strategy/ddp.yaml"
        )
    return cast(TrainedModule, module)


def shard_all(module: Any) -> None:
    """Cuts all networks of a module where its strategy leaves that to it, as FsdpStrategy does; for `configure_model`.

    Raises:
        ValueError: for a mesh that has more to share than data.
    """
    mesh = module.device_mesh
    if mesh is None:
        return
    if mesh["tensor_parallel"].size() > 1:
        raise ValueError(
            "the networks are sharded over data only: set the strategy's data_parallel_size to the number of "
            "processes, and tensor_parallel_size to 1"
        )
    for net in all_networks(module):
        shard(net, mesh["data_parallel"])
        unread.bring(net, module.trainer.strategy.root_device)


def all_networks(module: TrainedModule) -> list[VideoNetwork]:
    """Those that learn, the frozen ones, and the averages."""
    trained = list(module.trained.values())
    averages = [each.average.net for each in trained if each.average is not None]
    return [*(each.net for each in trained), *module.frozen.values(), *averages]
