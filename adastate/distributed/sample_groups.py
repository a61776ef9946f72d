"""Shared by all strategies in which several ranks share a sample: groups the ranks, and splits all networks over them.

`sequence_parallel` of a strategy is the number of ranks that share a sample. They are neighbours, so that a group is
within one machine if possible. Data loading uses adastate.runtime.ranks.sample_rank, which counts a group as one rank.
"""

from __future__ import annotations

from typing import Any, Protocol, cast

import lightning.pytorch as pl

from adastate.distributed.protocol import all_networks, trained_module
from adastate.distributed.sequence_split import make_split, split_networks
from adastate.models.size import check_degree


class Grouping(Protocol):
    """A Lightning strategy with `sequence_parallel`."""

    sequence_parallel: int

    @property
    def lightning_module(self) -> pl.LightningModule | None: ...

    @property
    def world_size(self) -> int: ...

    @property
    def global_rank(self) -> int: ...


def group_ranks(self: Grouping) -> None:
    """Splits the module's networks over groups of ranks; all ranks call it after the process group is initialised.

    Raises:
        TypeError: the module does not name its networks.
        ValueError: groups of this size cannot share a sample; lists the sizes that can.
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
                "compiled blocks cannot exchange tokens, as sequence_parallel does within them: leave out "
                "precision.compiled=true"
            )
    split_networks(networks, make_split(self.sequence_parallel))


def distributed_sampler_kwargs(self: Grouping) -> dict[str, int]:
    """For samplers made by Lightning: the ranks of a group see the same samples."""
    degree = self.sequence_parallel
    return {"num_replicas": self.world_size // degree, "rank": self.global_rank // degree}
