"""What DataModules of shards share: the rows, read once for all processes, and what of them is skipped."""

from __future__ import annotations

from abc import abstractmethod
from pathlib import Path
from typing import Any

from adastate.types import Batch
from datamodules.base import EndlessData
from datamodules.shards.dataset import ShardDataset
from datamodules.shards.patience import Patience
from datamodules.shards.sampler import together

LEDGER = "skipped.jsonl"


class FromShards(EndlessData):
    """Samples of shards. A subclass says which, by `read` and `batches`; its arguments are documented there."""

    def __init__(
        self,
        shards: str,
        batch: int,
        seed: int,
        workers: int,
        max_skipped_share: float,
        memory_gb: float,
        read_timeout_s: float,
        actions: bool,
    ) -> None:
        super().__init__(batch, workers)
        self.shards, self.seed, self.actions = shards, seed, actions
        self.max_skipped_share, self.memory_gb, self.read_timeout_s = max_skipped_share, memory_gb, read_timeout_s
        self.rows: ShardDataset | None = None

    @abstractmethod
    def read(self) -> ShardDataset:
        """The samples; called once, see `open_rows`."""

    @property
    def skipped(self) -> dict[str, int]:
        """Bad samples met so far, by cause; under a Trainer those of all processes and loader workers."""
        return self.rows.skipped if self.rows else {}

    def setup(self, stage: str | None = None) -> None:
        self.rows = self.rows or together(self.trainer, self.read)

    def open_rows(self, kind: str, frames: int | None = None) -> ShardDataset:
        """The samples that have a member of this kind."""
        ledger = Path(self.trainer.default_root_dir) / LEDGER if self.trainer else None
        return ShardDataset(
            self.shards,
            kind,
            frames,
            self.seed,
            self.max_skipped_share,
            self.memory_gb,
            ledger,
            Patience(self.read_timeout_s),
            self.actions,
        )

    def there(self) -> ShardDataset:
        """The samples, read by now."""
        self.setup()
        assert self.rows is not None
        return self.rows

    def identity_as(self, kind: str) -> dict[str, Any]:
        return {"kind": kind, "seed": self.seed, **self.there().identity}

    def on_before_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        batch = super().on_before_batch_transfer(batch, dataloader_idx)
        if self.rows is not None:
            self.rows.refuse_together(self.trainer, self.cursor.begun)
        return batch
