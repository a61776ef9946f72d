"""Decoded samples by their index in the endless order; a bad sample is replaced by the next good one."""

from __future__ import annotations

import time
import warnings
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch

from adastate.runtime.secrets import redacted
from adastate.types import Batch
from datamodules.shards.decode import DecodedSample, decode, read_facts, require_usable
from datamodules.shards.index import BadSample, Places, Sample
from datamodules.shards.patience import Patience
from datamodules.shards.safe_decode import MAX_PIXELS
from datamodules.shards.sampler import BatchStream, EpochShuffle
from datamodules.shards.shard_error import ShardError
from datamodules.shards.skip_log import Ledger, Skip

_PROBES = 7
"""Number of good samples whose majority determines the shape of a set."""

CHECK_EVERY = 20
"""Batches between two checks, by all processes together, that not too many samples are bad."""

_PATIENCE_S = 300.0
_MOST_IN_A_ROW = 10_000
_READ_BEFORE_GIVING_UP = 1000


Check = Callable[[Sample, dict[str, Any]], None]
"""Raises BadSample for a sample whose facts do not fit the set."""


class ShardDataset:
    """Decoded samples by global sample number; a bad sample is replaced by the next good one in the order.

    So the sample at a number depends only on the data and the seed, not on the number of processes or their speed.
    Samples are cached in memory up to a limit, because decoding must not slow down the training of a tiny net.

    Args:
        shards: pattern, as for `find_shards`.
        kind: member that is needed of every sample.
        frames: number of frames, None for all.
        seed: of the order.
        max_skipped_share: share of bad samples above which the set is refused.
        memory_gb: limit of the cache, in every loader worker.
        ledger: file that lists the skipped samples; None only counts them.
        patience: limits for slow and failing reads.
        actions: read actions if there are any. All samples of a set must have them, or none: the minority is bad.

    Raises:
        ShardError: there is nothing usable, or more bad samples than allowed.
    """

    def __init__(
        self,
        shards: str,
        kind: str,
        frames: int | None,
        seed: int,
        max_skipped_share: float = 0.05,
        memory_gb: float = 2.0,
        ledger: Path | None = None,
        patience: Patience | None = None,
        actions: bool = True,
    ) -> None:
        self.actions = actions
        self.shards = redacted(shards)  # for messages
        self.kind, self.frames, self.max_skipped_share = kind, frames, max_skipped_share
        self.patience = patience or Patience()
        self.places = Places(shards, self.patience)
        self.ledger = Ledger(ledger, self.places.digest)
        self.alone = True  # with several processes none may stop alone: see `excess`
        self.check: Check | None = None
        self._warned: set[str] = set()
        self._memory: dict[int, DecodedSample] = {}
        self._free = memory_gb * 2**30
        self._tried, self._bad = bytearray(len(self)), bytearray(len(self))
        self._tries = self._failures = 0
        self._write(self.places.empty())
        self._look_over(lambda sample: require_usable(sample, kind))
        self.order = EpochShuffle([s.places for s in self.places.shards if s.places], seed)
        self.shape, self.steered = torch.Size(), torch.Size()  # of content and actions; no axes: no actions
        # Several good samples determine the shape, as the first one to be read differs between processes.
        self.probes = self._probe()
        if not self.probes:
            found = dict(self.ledger.counts())
            raise ShardError(f"none of the {len(self)} samples of {self.shards} can be used: {found}")
        self.shape, self.steered = Counter(map(_shapes, self.probes)).most_common(1)[0][0]

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, position: int) -> DecodedSample:
        """Raises ShardError if thousands in a row, or all within five minutes, cannot be used."""
        end = time.monotonic() + _PATIENCE_S
        for p in range(position, position + min(2 * len(self), _MOST_IN_A_ROW)):
            if row := self._load(self.order[p]):
                return row
            if time.monotonic() > end:
                break
        raise ShardError(f"only bad samples in {self.shards} from number {position} on: is its storage available?")

    @property
    def skipped(self) -> dict[str, int]:
        """Bad samples by cause; with a ledger, those that other processes found are included."""
        return dict(self.ledger.counts())

    @property
    def identity(self) -> dict[str, Any]:
        """Everything that determines the order."""
        return {
            "samples": len(self),
            "shards": len(self.places.shards),
            "digest": self.places.digest,
            **self.places.content,
        }

    def batches(
        self, collate: Callable[[ShardDataset, range], Batch], batch: int, rank: int, world: int
    ) -> BatchStream:
        """Endless batches of `collate(self, global sample numbers)`.

        Raises:
            ShardError: the batch of all processes is larger than the set.
        """
        if batch * world > len(self):
            raise ShardError(
                f"a batch of {batch} in each of {world} processes exceeds the {len(self)} samples "
                f"of {self.shards}: lower data.batch or make more clips"
            )
        self.alone = world == 1
        return BatchStream(partial(collate, self), batch, batch * world, rank)

    def require_facts(self, check: Check) -> None:
        """Checks the facts of every sample with `check`: of indexed shards now, of all others when they are read."""
        self.check = check
        self._look_over(lambda sample: check(sample, read_facts(sample)))

    def _look_over(self, check: Callable[[Sample], None]) -> None:
        skips = []
        for n, sample in self.places.indexed():
            if not self._bad[n]:
                try:
                    check(sample)
                except BadSample as error:
                    skips.append(self._mark(n, sample, error))
        self._write(skips)

    def _probe(self) -> list[DecodedSample]:
        found: list[DecodedSample] = []
        for n in range(len(self)):
            if row := self._load(n):
                found.append(row)
            if len(found) == _PROBES:
                break
        return found

    def _load(self, n: int) -> DecodedSample | None:
        """The sample at place `n`, or None if it is bad."""
        if n in self._memory or self._bad[n]:
            row = self._memory.get(n)
            if row is None or not self.shape or _shapes(row) == (self.shape, self.steered):
                return row
        self._tries += not self._tried[n]
        self._tried[n] = True
        sample = self.places[n]
        try:
            row = self._memory.get(n) or decode(
                sample, self.kind, self.frames, self.patience, self.actions, self._pixels()
            )
            if self.shape and _shapes(row) != (self.shape, self.steered):
                self._memory.pop(n, None)
                raise self._unlike_others(sample, row)
            if self.check:
                self.check(sample, row.facts)
        except BadSample as error:
            self._failures += 1
            self._write([self._mark(n, sample, error)])
            return None
        if n not in self._memory and (size := row.content.nbytes) <= self._free:
            self._memory[n] = row
            self._free -= size
        return row

    def _pixels(self) -> int:
        """Limit of pixels of a decoded picture: once the shape of the set is known, slightly more than that, as sides
        are padded and pixels stretched."""
        return 4 * self.shape[-2] * self.shape[-1] + 2**16 if self.kind == "mp4" and self.shape else MAX_PIXELS

    def _unlike_others(self, sample: Sample, row: DecodedSample) -> BadSample:
        if row.content.shape != self.shape:
            told = (
                f"is {list(row.content.shape)}, but the others {list(self.shape)}: separate sizes, or set data.frames"
            )
            return BadSample("another shape", sample, told)
        has, others = (
            f"actions {[*shape]}" if shape else "no actions.npy" for shape in (_shapes(row)[1], self.steered)
        )
        told = f"has {has}, but the others {others}: all samples of a set must have actions, or none"
        return BadSample("other actions", sample, told)

    def _mark(self, n: int, sample: Sample, error: BadSample) -> Skip:
        self._bad[n] = error.cause != "out of reach"  # an unreachable one may become available again
        if error.cause not in self._warned:
            self._warned.add(error.cause)
            warnings.warn(f"skipping a sample, {error}", stacklevel=2)
        return self.places.skip(n, sample, error.cause, error.detail)

    def _write(self, skips: list[Skip]) -> None:
        if skips and self.ledger.add(skips) and self.alone and (excess := self.excess()):
            raise ShardError(excess)

    def excess(self) -> str | None:
        """Why the set is refused, or None: more skipped than allowed of all, or twice that of the first thousand."""
        causes, total = self.ledger.counts(), len(self)
        skipped, seen = causes.total(), total
        if self._tries >= _READ_BEFORE_GIVING_UP and self._failures > 2 * self.max_skipped_share * self._tries:
            skipped, seen = self._failures, self._tries
        elif skipped <= self.max_skipped_share * total:
            return None
        first = {skip.cause: skip for skip in reversed(self.ledger.skips())}
        told = "; ".join(
            f"{n} with {c}, the first: {first[c].shard}: {first[c].key or 'all of it'} {first[c].detail}"
            for c, n in causes.items()
        )
        shard, cause, most = self.ledger.worst()
        return (
            f"{skipped} of {seen} samples of {self.shards} cannot be used: {told}; that is above max_skipped_share "
            f"{self.max_skipped_share:g}, and {shard} is worst, {most} with {cause}"
        )

    def refuse_together(self, trainer: pl.Trainer | None, begun: int) -> None:
        """Ends the run in all processes at the same batch, because one that ended alone would leave the others waiting.

        Args:
            begun: batches that went into training; every `CHECK_EVERY` of them the processes check together.

        Raises:
            ShardError: a process found too many bad samples.
        """
        if trainer is None or trainer.world_size == 1 or begun % CHECK_EVERY != 1:
            return
        excess = self.excess()
        if trainer.strategy.reduce_boolean_decision(excess is not None, all=False):
            raise ShardError(
                excess or f"too many samples of {self.shards} cannot be used: see the message of another process"
            )


def _shapes(row: DecodedSample) -> tuple[torch.Size, torch.Size]:
    """Shapes of content and of actions, the latter without axes if there are none."""
    return row.content.shape, torch.Size() if row.actions is None else row.actions.shape
