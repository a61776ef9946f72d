"""Which of several processes this is, as torchrun or SLURM tells it; they share files, and no process group."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch


@dataclass(frozen=True)
class Rank:
    """Process `rank` of `world`, the `local`-th of its machine."""

    rank: int = 0
    world: int = 1
    local: int = 0


def this_rank(env: Mapping[str, str]) -> Rank:
    """From torchrun's variables (RANK, WORLD_SIZE, LOCAL_RANK), or else srun's; alone without either."""
    for rank, world, local in (
        ("RANK", "WORLD_SIZE", "LOCAL_RANK"),
        ("SLURM_PROCID", "SLURM_NTASKS", "SLURM_LOCALID"),
    ):
        if rank in env and world in env:
            found = Rank(int(env[rank]), int(env[world]), int(env.get(local, 0)))
            if not 0 <= found.rank < found.world:
                raise ValueError(
                    f"{rank} is {found.rank} with {world} {found.world}: ranks go from 0 to the world's end"
                )
            return found
    return Rank()


def sample_rank(trainer: Any) -> Rank:
    """This process among those of a Trainer that have samples of their own: ranks that share a sample count as one.

    The strategy tells by `sequence_parallel` how many do; others have none of it. Alone without a trainer.
    """
    if trainer is None:
        return Rank()
    degree = int(getattr(trainer.strategy, "sequence_parallel", 1))
    return Rank(trainer.global_rank // degree, trainer.world_size // degree, trainer.local_rank // degree)


def device_for(name: str, rank: Rank) -> torch.device:
    """`name`, and for a plain "cuda" the GPU of this process; a machine that shows each process its own has one.

    From then on "cuda" means that GPU wherever the process says so: in an encoder's settings, in a graph's streams.
    """
    device = torch.device(name)
    if device.type == "cuda" and torch.cuda.device_count():
        if device.index is None:
            device = torch.device("cuda", rank.local % torch.cuda.device_count())
        torch.cuda.set_device(device)
    return device
