"""DDP for several networks in one run: every rank holds everything, and ranks may share a sample."""

from __future__ import annotations

from lightning.pytorch.strategies import DDPStrategy

from adastate.distributed import sample_groups


class DdpStrategy(DDPStrategy):
    """Lightning's DDP, for modules in which a backward pass reaches only one of several networks.

    Args:
        sequence_parallel: ranks that share a sample, see adastate.distributed.sequence_split.
    """

    def __init__(self, sequence_parallel: int = 1) -> None:
        super().__init__(find_unused_parameters=True)
        self.sequence_parallel = sequence_parallel

    def setup_environment(self) -> None:
        super().setup_environment()
        sample_groups.group_ranks(self)

    distributed_sampler_kwargs = property(sample_groups.distributed_sampler_kwargs)  # type: ignore[assignment]
