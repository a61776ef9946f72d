"""What every strategy does that gives a sample to several ranks: it groups them, and has all networks split by them.

`sequence_parallel` of a strategy is how many ranks share a sample. Neighbours do, so that a group lies within a machine
where it can. Whoever reads data asks adastate.runtime.ranks.sample_rank, by which the ranks of a group are one.
"""

from __future__ import annotations

from typing import Any, Protocol, cast

import lightning.pytorch as pl

from adastate.distributed.protocol import all_networks, trained_module
from adastate.distributed.sequence_split import make_split, split_networks
from adastate.models.size import check_degree


class Grouping(Protocol):
    """A strategy of Lightning's that has `sequence_parallel`."""

    sequence_parallel: int

    @property
    def lightning_module(self) -> pl.LightningModule | None: ...

    @property
    def world_size(self) -> int: ...

    @property
    def global_rank(self) -> int: ...


def group_ranks(self: Grouping) -> None:
    """Splits the module's networks over groups of ranks; all ranks call it, once they know each other.

    Raises:
        TypeError: the module does not name its networks.
        ValueError: no such groups can share a sample; with those that can.
    """
    if self.sequence_parallel == 1:
        return
    module = trained_module(self.lightning_module, f"{type(self).__name__} with sequence_parallel")
    networks = all_networks(module)
    latent_size = cast(Any, module).latent_size
    for net in networks:
        check_degree(self.sequence_parallel, net.size.heads, net.size.tokens(latent_size), self.world_size)
        if net.compiled:
            raise ValueError(
                "compiled blocks run alone, and sequence_parallel exchanges within them: leave out "
                "precision.compiled=true"
            )
    split_networks(networks, make_split(self.sequence_parallel))


def distributed_sampler_kwargs(self: Grouping) -> dict[str, int]:
    """For samplers that Lightning makes: the ranks of a group see the same samples."""
    degree = self.sequence_parallel
    return {"num_replicas": self.world_size // degree, "rank": self.global_rank // degree}
