"""What a module tells of its networks: which of them learn, which stand still, and which have an average."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol, cast

import lightning.pytorch as pl
from torch import Tensor, nn

from adastate.models.fsdp import shard
from adastate.models.lora import Lora, adapt
from adastate.models.wan import DiT, Size
from adastate.optim.ema import EMA
from adastate.weights import network


class TrainedModule(Protocol):
    """What strategies look at in a module: Distill, Teacher and Student have it.

    One that optimises by itself steps through `clipped_step`; another asks `clip_gradient` before each step. A strategy
    may replace either.
    """

    clipped_step: Callable[[nn.Module, Any, float, Callable[[Tensor], bool]], Tensor]
    clip_gradient: Callable[[nn.Module, float], Tensor]
    learning: str
    """Name of the network that the backward pass at hand is for."""
    gradient_clip_norm: float

    @property
    def trained(self) -> Mapping[str, DiT]:
        """In the order of their optimisers."""

    @property
    def frozen(self) -> Mapping[str, DiT]: ...

    @property
    def averages(self) -> Mapping[str, EMA]:
        """Of trained networks, by the same names."""

    @property
    def accumulate(self) -> int:
        """Micro batches a step."""


def learner(size: Size, weights: str | None, lora: Lora | None, **options: Any) -> DiT:
    """A network that is to learn: with `lora` only its adapters do. Arguments as of `network` and `adapt`."""
    net = network(size, weights, **options)
    adapt(net, lora, weights)
    return net


def trained_module(module: pl.LightningModule | None, strategy: str) -> TrainedModule:
    """`module` as `strategy` looks at it.

    Raises:
        TypeError: it does not name its networks.
    """
    missing = [n for n in ("trained", "frozen", "averages", "accumulate") if not hasattr(type(module), n)]
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
    averages = (average.net for average in module.averages.values())
    for net in (*module.trained.values(), *module.frozen.values(), *averages):
        shard(net, mesh["data_parallel"])
