"""The networks that a module trains, and the operations on them that depend on the strategy."""

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
    """A trained network, with what belongs to it.

    Attributes:
        name: in logs, checkpoints and errors.
        net: its weights.
        average: of the weights, if one is kept.
        gradient_clip_norm: maximum norm of its gradient.
    """

    name: str
    net: VideoNetwork
    average: EMA | None
    gradient_clip_norm: float


class TrainedModule(Protocol):
    """What strategies need of a module: Distill, Teacher and Student have it."""

    @property
    def trained(self) -> Mapping[str, TrainedNetwork]:
        """By name, in the order of their optimisers."""

    @property
    def frozen(self) -> Mapping[str, VideoNetwork]: ...

    @property
    def accumulate(self) -> int:
        """Micro batches per step."""


@runtime_checkable
class NetworkStrategy(Protocol):
    """Operations on each trained network that depend on the strategy.

    A Lightning strategy without these methods, and FsdpStrategy, use those of `PLAIN`. A strategy that has them
    receives the network of a backward pass through `manual_backward(loss, network=...)`; with Lightning's automatic
    optimisation there is only one.
    """

    @property
    def one_backward_per_batch(self) -> bool:
        """Whether a network must have exactly one backward pass per micro batch."""

    @property
    def averages_are_whole(self) -> bool:
        """Whether `TrainedNetwork.average` holds full weights that can be run in the middle of training."""

    def clip_gradient(self, network: TrainedNetwork) -> Tensor:
        """Clips before an automatic step, or leaves that to the step; returns the norm before clipping."""

    def clipped_step(self, network: TrainedNetwork, optimizer: Any, permit: Callable[[Tensor], bool]) -> Tensor:
        """One manual step with the gradient clipped, if `permit` accepts its norm; returns the norm before clipping.

        The gradient is cleared in either case.
        """


class PlainSteps:
    """A NetworkStrategy that uses torch's own gradients: full ones, or FSDP2's shards."""

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
    """A network to be trained; with `lora` only its adapters are. Arguments as for `network` and `adapt`."""
    net = load_network(size, weights, **options)
    if lora is not None:
        unread.bring(net, "cpu")  # adapters are initialised on the device of the weights
    adapt(net, lora, weights)
    return net


def trained_module(module: pl.LightningModule | None, strategy: str) -> TrainedModule:
    """`module` as a TrainedModule.

    Raises:
        TypeError: it does not name its networks.
    """
    missing = [n for n in ("trained", "frozen", "accumulate") if not hasattr(type(module), n)]
    if missing:
        raise TypeError(
            f"{strategy} cannot train {type(module).__name__}, which lacks {', '.join(missing)}, unlike Distill; "
            "use conf/strategy/ddp.yaml"
        )
    return cast(TrainedModule, module)


def shard_all(module: Any) -> None:
    """Shards all networks of a module if its strategy leaves that to it, as FsdpStrategy does; for `configure_model`.

    Raises:
        ValueError: for a mesh with parallelism other than over data.
    """
    mesh = module.device_mesh
    if mesh is None:
        return
    if mesh["tensor_parallel"].size() > 1:
        raise ValueError(
            "networks are sharded over data only: set the strategy's data_parallel_size to the number of "
            "processes, and tensor_parallel_size to 1"
        )
    for net in all_networks(module):
        shard(net, mesh["data_parallel"])
        unread.bring(net, module.trainer.strategy.root_device)


def all_networks(module: TrainedModule) -> list[VideoNetwork]:
    """Trained networks, frozen ones, and averages."""
    trained = list(module.trained.values())
    averages = [each.average.net for each in trained if each.average is not None]
    return [*(each.net for each in trained), *module.frozen.values(), *averages]
