"""Decoded samples by their number in the endless order; bad ones give their place to the next good one."""

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
"""Good samples that vote on the shape of a set."""

CHECK_EVERY = 20
"""Batches between two agreements of all processes that the data is good enough to go on."""

_PATIENCE_S = 300.0
_MOST_IN_A_ROW = 10_000
_READ_BEFORE_GIVING_UP = 1000


Check = Callable[[Sample, dict[str, Any]], None]
"""Raises BadSample for a sample whose facts do not fit the set."""


class ShardDataset:
    """Decoded samples by global sample number; a bad sample gives its place to the next good one in the order.

    So what a number stands for follows from the data and the seed alone, and not from the number of processes or from
    who is slow. Samples are kept in memory up to a limit, because decoding must not slow the training of a tiny net.

    Args:
        shards: pattern, as `find_shards` takes it.
        kind: member wanted of every sample.
        frames: frames wanted, None for all.
        seed: of the order.
        max_skipped_share: share of bad samples above which the set is refused.
        memory_gb: limit of the memory, in every loader worker.
        ledger: file of the skipped samples; None counts them only.
        patience: with slow and failing reads.
        actions: read those that there are. All samples of a set have them, or none: what is otherwise than most is bad.

    Raises:
        ShardError: nothing usable, or more bad samples than allowed.
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
        self.shards = redacted(shards)  # as sentences have it
        self.kind, self.frames, self.max_skipped_share = kind, frames, max_skipped_share
        self.patience = patience or Patience()
        self.places = Places(shards, self.patience)
        self.ledger = Ledger(ledger, self.places.digest)
        self.alone = True  # among several processes none may stop by itself: see `excess`
        self.check: Check | None = None
        self._warned: set[str] = set()
        self._memory: dict[int, DecodedSample] = {}
        self._free = memory_gb * 2**30
        self._tried, self._bad = bytearray(len(self)), bytearray(len(self))
        self._tries = self._failures = 0
        self._write(self.places.empty())
        self._look_over(lambda sample: require_usable(sample, kind))
        self.order = EpochShuffle([s.places for s in self.places.shards if s.places], seed)
        self.shape, self.steered = torch.Size(), torch.Size()  # of content and actions; no axes: without actions
        # Some good samples set the shape, and not the first to be read, which differs between processes.
        self.probes = self._probe()
        if not self.probes:
            found = dict(self.ledger.counts())
            raise ShardError(f"none of the {len(self)} samples of {self.shards} can be used: {found}")
        self.shape, self.steered = Counter(map(_shapes, self.probes)).most_common(1)[0][0]

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, position: int) -> DecodedSample:
        """Raises ShardError if thousands in a row, or five minutes of them, cannot be used."""
        end = time.monotonic() + _PATIENCE_S
        for p in range(position, position + min(2 * len(self), _MOST_IN_A_ROW)):
            if row := self._load(self.order[p]):
                return row
            if time.monotonic() > end:
                break
        raise ShardError(
            f"nothing but bad samples in {self.shards} from number {position} on: is its storage available?"
        )

    @property
    def skipped(self) -> dict[str, int]:
        """Bad samples by cause; with a ledger those that other processes have met, too."""
        return dict(self.ledger.counts())

    @property
    def identity(self) -> dict[str, Any]:
        """What the order is a function of."""
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
                f"a batch of {batch} in each of {world} processes is more than the {len(self)} samples "
                f"of {self.shards}: lower data.batch or make more clips"
            )
        self.alone = world == 1
        return BatchStream(partial(collate, self), batch, batch * world, rank)

    def require_facts(self, check: Check) -> None:
        """Holds the facts of every sample against `check`, those of indexed shards now and all others when read."""
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
        """Of a picture that is decoded: once the shape of the set is known, somewhat more, as sides are
        padded and pixels stretched."""
        return 4 * self.shape[-2] * self.shape[-1] + 2**16 if self.kind == "mp4" and self.shape else MAX_PIXELS

    def _unlike_others(self, sample: Sample, row: DecodedSample) -> BadSample:
        if row.content.shape != self.shape:
            told = f"is {list(row.content.shape)}, the others {list(self.shape)}: keep sizes apart, or set data.frames"
            return BadSample("another shape", sample, told)
        has, others = (
            f"actions {[*shape]}" if shape else "no actions.npy" for shape in (_shapes(row)[1], self.steered)
        )
        told = (
            f"has {has}, the others {others}: all samples of a batch have actions or none has, so keep such sets apart"
        )
        return BadSample("other actions", sample, told)

    def _mark(self, n: int, sample: Sample, error: BadSample) -> Skip:
        self._bad[n] = error.cause != "out of reach"  # what is only out of reach may come back
        if error.cause not in self._warned:
            self._warned.add(error.cause)
            warnings.warn(f"skipping a sample, {error}", stacklevel=2)
        return self.places.skip(n, sample, error.cause, error.detail)

    def _write(self, skips: list[Skip]) -> None:
        if skips and self.ledger.add(skips) and self.alone and (excess := self.excess()):
            raise ShardError(excess)

    def excess(self) -> str | None:
        """Why the set is refused, if it is: more skipped than allowed of all, or twice that of the first thousand."""
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
        """Ends the run in all processes at the same batch, as one that ended alone would leave the others waiting.

        Args:
            begun: batches that went into training; every `CHECK_EVERY` of them the processes agree.

        Raises:
            ShardError: some process has met too many bad samples.
        """
        if trainer is None or trainer.world_size == 1 or begun % CHECK_EVERY != 1:
            return
        excess = self.excess()
        if trainer.strategy.reduce_boolean_decision(excess is not None, all=False):
            raise ShardError(
                excess or f"too many samples of {self.shards} cannot be used: see the message of another process"
            )


def _shapes(row: DecodedSample) -> tuple[torch.Size, torch.Size]:
    """Of content and of actions, the latter without axes where there are none."""
    return row.content.shape, torch.Size() if row.actions is None else row.actions.shape
