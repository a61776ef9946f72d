"""Which of several processes this is, as torchrun or SLURM tells it; they share files, and no process group."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
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


def device_for(name: str | None, rank: Rank) -> torch.device:
    """`name`, by default a GPU if there is one; for a plain "cuda" the GPU of this process, or of a machine that shows
    each process its own the one that it has.

    From then on "cuda" means that GPU wherever the process says so: in an encoder's settings, in a graph's streams.

    Raises:
        ValueError: a GPU where torch finds none, or not so many.
    """
    import torch  # who only asks for its rank is answered at once

    there = torch.cuda.device_count()
    device = torch.device(name or ("cuda" if there else "cpu"))
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise ValueError(f"--device {name}: torch finds no GPU of this Mac; leave --device out")
    if device.type == "cuda":
        if not there:
            raise ValueError(f"--device {name}: torch finds no GPU here; leave --device out")
        if device.index is None:
            device = torch.device("cuda", rank.local % there)
        if device.index is not None and device.index >= there:
            raise ValueError(f"--device {name}: torch finds {there} GPUs here, the first of which is cuda:0")
        torch.cuda.set_device(device)
    return device
