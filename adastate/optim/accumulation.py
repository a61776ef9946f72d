"""The batch of one iteration, put together from micro batches."""

from __future__ import annotations

from adastate.types import Batch


class GlobalBatch:
    """Collects micro batches until there are as many samples as an iteration has, on all processes together.

    Args:
        size: samples of an iteration.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self.micro = 0
        """Samples of a process's micro batch, the datamodule's."""
        self._held: list[Batch] = []

    @property
    def is_empty(self) -> bool:
        return not self._held

    def fit(self, batch: int, world: int) -> int:
        """Sets and returns the micro batch: `batch`, or less where so many processes share an iteration.

        Raises:
            ValueError: as `parts`.
        """
        self.micro = batch if self.size % world else min(batch, self.size // world)
        self.parts(world)
        return self.micro

    def parts(self, world: int) -> int:
        """Micro batches of one of `world` processes in an iteration.

        Raises:
            ValueError: they do not make up the size.
        """
        if self.size % (self.micro * world):
            raise ValueError(
                f"global_batch {self.size} is not a multiple of {world} processes x batch {self.micro}: change the "
                "datamodule's batch"
            )
        return self.size // (self.micro * world)

    def add(self, batch: Batch, world: int) -> list[Batch]:
        """All of the iteration's once this is the last of them, and nothing before."""
        self._held.append(batch)
        if len(self._held) < self.parts(world):
            return []
        found, self._held = self._held, []
        return found
