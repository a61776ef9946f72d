"""Randomness as a function of its purpose, not of earlier draws.

Every draw is keyed by (seed, iteration, global sample index, purpose), or without the sample index where all samples
and ranks share it. So a batch gives the same numbers on one process or eight (law 11), a resumed run gets the numbers
of an uninterrupted one, and previews do not change the training.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor


def generator(*key: int | str, device: torch.device | str = "cpu") -> torch.Generator:
    """A generator seeded by the whole key. Bits differ between CPU and GPU, not between machines of one kind."""
    digest = hashlib.blake2b(repr(key).encode(), digest_size=8).digest()
    return torch.Generator(device=device).manual_seed(int.from_bytes(digest, "big") >> 1)


def shared_integer(high: int, *key: int | str) -> int:
    """One integer in 0..high-1, the same on every rank: an exit level or a rollout length."""
    return int(torch.randint(high, (1,), generator=generator(*key)))


def agree(drawn: Mapping[str, int], device: torch.device | str = "cpu") -> None:
    """Raises on every rank unless all have the same integers. Ranks that run a sharded network a different number of
    times would wait for each other forever. One small gather; nothing on a single process."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return
    mine = torch.tensor(list(drawn.values()), device=device)
    every = [torch.empty_like(mine) for _ in range(torch.distributed.get_world_size())]
    torch.distributed.all_gather(every, mine)
    for name, values in zip(drawn, torch.stack(every, 1).tolist(), strict=True):
        if len(set(values)) > 1:
            raise RuntimeError(
                f"the ranks differ in {name}: {values} by rank. All must draw the same, from (seed, iteration), and "
                "resume from the same checkpoint"
            )


class SampleNoise:
    """A source of noise for one batch, with a separate generator for each row.

    Args:
        seed, iteration, purpose: the key of the draws.
        index: global sample index of every row.
        device: device on which the numbers are drawn.
    """

    def __init__(
        self,
        seed: int,
        iteration: int,
        index: Int[Tensor, " B"] | Sequence[int],
        purpose: str,
        device: torch.device | str = "cpu",
    ) -> None:
        rows = index.tolist() if isinstance(index, Tensor) else list(index)
        self._rows = [generator(seed, iteration, i, purpose, device=device) for i in rows]
        self._device = device

    def normal(self, *shape: int) -> Float[Tensor, "B ..."]:
        """Standard normals `[B, *shape]`; the next call continues the sequence."""
        return torch.stack([torch.randn(shape, generator=g, device=self._device) for g in self._rows])

    def integers(self, high: int) -> Int[Tensor, " B"]:
        """Integers in 0..high-1."""
        return torch.cat([torch.randint(high, (1,), generator=g, device=self._device) for g in self._rows])

    def uniform(self, *shape: int) -> Float[Tensor, "B ..."]:
        """Uniform numbers in [0, 1), `[B, *shape]`."""
        return torch.stack([torch.rand(shape, generator=g, device=self._device) for g in self._rows])


class PlacedNoise:
    """Noise as a function of its position in the stream (chunk, level, state or content), not of earlier draws.

    Streams with different step lists, with and without a state, get the same numbers for the same content, so they can
    be compared.

    Args:
        seed, index, purpose, device: as in SampleNoise.
    """

    def __init__(
        self, seed: int, index: Sequence[int], purpose: str = "placed", device: torch.device | str = "cpu"
    ) -> None:
        self.seed, self.index, self.purpose, self.device = seed, list(index), purpose, device

    def at(self, chunk: int, level: int, kind: str) -> SampleNoise:
        """The source for one draw: `kind` is "state" or "content"."""
        return SampleNoise(self.seed, chunk, self.index, f"{self.purpose} {level} {kind}", self.device)

    def normal(self, *shape: int) -> Float[Tensor, "B ..."]:
        raise RuntimeError("placed noise is drawn through `at`")


class RecordedNoise:
    """Replays recorded normals in the order of the requests; a wrong shape or too many requests are errors."""

    def __init__(self, draws: Sequence[Float[Tensor, "B ..."]]) -> None:
        self._draws: Iterator[Tensor] = iter(draws)
        self._taken = 0

    def normal(self, *shape: int) -> Float[Tensor, "B ..."]:
        try:
            draw = next(self._draws)
        except StopIteration:
            raise ValueError(f"draw {self._taken} of shape {shape} was not recorded: only {self._taken} were") from None
        if draw.shape[1:] != shape:
            raise ValueError(
                f"recorded draw {self._taken} is {tuple(draw.shape[1:])} a row, the rollout asks for {shape}"
            )
        self._taken += 1
        return draw
