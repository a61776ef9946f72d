"""Training speed, and the time spent waiting for data."""

from __future__ import annotations

import resource
import sys
import time
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.profilers import PassThroughProfiler

from adastate.runtime.ranks import sample_rank
from adastate.types import Batch
from callbacks.previews import tags
from callbacks.protocols import Streams, iteration, iterations_apart, log_scalars


class FetchTimer(PassThroughProfiler):
    """Adds up the seconds that Lightning's training loop spends asking for the next batch.

    The gap between two batches would not do: it also contains other callbacks and checkpoint writing.
    """

    FETCH = ".train_dataloader_next"

    def __init__(self) -> None:
        super().__init__()
        self.seconds = 0.0
        self._since = 0.0

    def start(self, action_name: str) -> None:
        if action_name.endswith(self.FETCH):
            self._since = time.perf_counter()

    def stop(self, action_name: str) -> None:
        if action_name.endswith(self.FETCH):
            self.seconds += time.perf_counter() - self._since


class Throughput(pl.Callback):
    """Logs iterations/s, latent frames/s, the share of time spent waiting for data, and peak memory.

    Rates are wall-clock: they include previews and checkpoints. Frames are summed over all ranks. The data wait is
    measured by a profiler, so it is not logged if the Trainer has a profiler of its own.

    Args:
        every: iterations between entries.
    """

    def __init__(self, every: int = 50) -> None:
        self.every = iterations_apart(every)
        self._fetches: FetchTimer | None = None
        self._frames = 0
        self._start, self._first, self._waited = 0.0, 0, 0.0

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        owner: Any = trainer  # `profiler` is public but not declared
        if type(owner.profiler) is PassThroughProfiler:
            owner.profiler = FetchTimer()
        self._fetches = owner.profiler if isinstance(owner.profiler, FetchTimer) else None

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._begin(iteration(trainer, pl_module))

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._frames += _frames(pl_module, batch) * sample_rank(trainer).world
        now = iteration(trainer, pl_module)
        if now - self._first < self.every:
            return
        elapsed = time.perf_counter() - self._start
        metrics = {
            tags.ITERATIONS_PER_S: (now - self._first) / elapsed,
            tags.FRAMES_PER_S: self._frames / elapsed,
            tags.HOST_MEMORY: _peak_rss() / 2**30,
        }
        if self._fetches is not None:
            metrics[tags.DATA_WAIT] = (self._fetches.seconds - self._waited) / elapsed
        if pl_module.device.type == "cuda":
            metrics[tags.GPU_MEMORY] = torch.cuda.max_memory_allocated(pl_module.device) / 2**30
        log_scalars(trainer, metrics, now)
        self._begin(now)

    def _begin(self, now: int) -> None:
        self._start, self._first, self._frames = time.perf_counter(), now, 0
        self._waited = self._fetches.seconds if self._fetches is not None else 0.0


def _frames(module: pl.LightningModule, batch: Any) -> int:
    """Latent frames of a batch: its own, or those of the rollouts made from its prompts."""
    if not isinstance(batch, Batch):
        return 0
    if batch.latents is not None:
        return len(batch) * batch.latents.shape[1]
    return len(batch) * module.rollout_frames if isinstance(module, Streams) else 0


def _peak_rss() -> int:
    """In bytes; getrusage reports KiB on Linux and bytes on macOS."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
