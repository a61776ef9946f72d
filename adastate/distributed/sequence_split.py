"""One sample over several ranks: tokens split in space, heads split inside attention (Ulysses, arXiv 2309.14509).

Each rank has the same share of every frame's tokens, but everything outside the network in full: latents, losses and
noise are computed identically on all ranks of a group. Inside attention a rank has all tokens of its own heads, so a
stream's cache is divided by the degree, and is never sent. A layer exchanges its own tokens four times, as queries,
keys, values and attention outputs, in two collectives of torch.

A weight receives its gradient through a rank's own tokens, times the degree: the mean over all ranks, which every
strategy takes anyway, is then the mean over samples.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.distributed import ProcessGroup
from torch.distributed._functional_collectives import all_to_all_single_autograd, wait_tensor

from adastate.models.size import divisors
from adastate.models.video_network import VideoNetwork


@dataclass(frozen=True)
class SequenceSplit:
    """The share of one rank, see adastate.types.TokenSplit.

    Attributes:
        group: the ranks of one sample; gloo and NCCL both work.
        degree: number of ranks in the group.
        rank: index of this one in the group.
    """

    group: ProcessGroup
    degree: int
    rank: int

    def __deepcopy__(self, memo: dict[int, Any]) -> SequenceSplit:
        return self  # an average's copy of a network uses the same group

    def own(self, tokens: Tensor, frames: int, axis: int = 1) -> Tensor:
        """This rank's share `[..., F L / P, ...]` of all tokens `[..., F L, ...]` along `axis`."""
        each = tokens.shape[axis] // frames
        if each % self.degree:
            raise ValueError(
                f"frames of {each} tokens cannot be split over {self.degree} ranks; possible degrees: "
                f"{', '.join(map(str, divisors(each)))}"
            )
        share = each // self.degree
        parts = tokens.unflatten(axis, (frames, each)).narrow(axis + 1, self.rank * share, share)
        return parts.flatten(axis, axis + 1)

    def whole(self, tokens: Tensor, frames: int) -> Tensor:
        """All tokens `[B, F L, D]` from the shares `[B, F L / P, D]`, on every rank."""
        shares = self._exchange(tokens.unflatten(1, (frames, -1)).expand(self.degree, -1, -1, -1, -1))
        return shares.permute(1, 2, 0, 3, 4).flatten(1, 3)

    def heads(self, frames: int, *parts: Tensor) -> tuple[Tensor, ...]:
        """All tokens of this rank's heads, `[B, F L, N / P, K]` from each `[B, F L / P, N, K]`, in one exchange."""
        apart = [x.unflatten(1, (frames, -1)).unflatten(3, (self.degree, -1)) for x in parts]
        by_rank = self._exchange(torch.stack(apart).permute(4, 0, 1, 2, 3, 5, 6))
        return tuple(by_rank.permute(1, 2, 3, 0, 4, 5, 6).flatten(2, 4).unbind(0))

    def tokens(self, x: Tensor, frames: int) -> Tensor:
        """The inverse: all heads of this rank's tokens, `[B, F L / P, N, K]` from `[B, F L, N / P, K]`."""
        by_rank = self._exchange(x.unflatten(1, (frames, self.degree, -1)).permute(2, 0, 1, 3, 4, 5))
        return by_rank.permute(1, 2, 3, 0, 4, 5).flatten(3, 4).flatten(1, 2)

    def all_heads(self, x: Tensor) -> Tensor:
        """The heads of all ranks, `[B, L, N, K]` from `[B, L, N / P, K]`; for attention probes and saving."""
        return self._exchange(x.expand(self.degree, *x.shape)).permute(1, 2, 0, 3, 4).flatten(2, 3)

    def own_heads(self, x: Tensor) -> Tensor:
        """This rank's heads of `[B, L, N, K]`."""
        return x.unflatten(2, (self.degree, -1))[:, :, self.rank]

    def _exchange(self, parts: Tensor) -> Tensor:
        """Sends `parts[j]` to rank j; `[i]` of the result came from rank i."""
        return wait_tensor(all_to_all_single_autograd(parts.contiguous(), None, None, self.group))


def make_split(degree: int) -> SequenceSplit | None:
    """This rank's place in a group of `degree` neighbouring ranks; None for groups of one. All ranks call it.

    Raises:
        ValueError: the number of ranks is not divisible by `degree`.
    """
    if degree == 1:
        return None
    world, me = torch.distributed.get_world_size(), torch.distributed.get_rank()
    if degree < 1 or world % degree:
        raise ValueError(
            f"sequence_parallel is {degree}, but there are {world} ranks: use one of "
            f"{', '.join(map(str, divisors(world)))}"
        )
    mesh = torch.distributed.device_mesh.init_device_mesh(
        "cuda" if torch.distributed.get_backend() == "nccl" else "cpu",
        (world // degree, degree),
        mesh_dim_names=("data", "sequence"),
    )
    return SequenceSplit(mesh.get_group("sequence"), degree, me % degree)


def agreed(split: SequenceSplit, *found: Any) -> list[Any]:
    """The values of the group's first rank, on all of its ranks."""
    objects = list(found)
    first = torch.distributed.get_global_rank(split.group, 0)
    torch.distributed.broadcast_object_list(objects, first, split.group)
    return objects


def split_networks(networks: Iterable[VideoNetwork], split: SequenceSplit | None) -> None:
    """Makes networks run their passes over the ranks of `split`; None: unsplit again.

    Raises:
        ValueError: a network does not support this.
    """
    for net in networks:
        if split is not None and not net.can_split:
            raise ValueError(
                f"a {type(net).__name__} cannot split its passes: leave sequence_parallel at 1 with backbone "
                f"{net.size.backbone!r}"
            )
        net.split = split
