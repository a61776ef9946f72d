"""Rollouts with fixed prompts and noise during training: video, hidden states, and curves of their measurements."""

from __future__ import annotations

import math
import time
import traceback
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.utilities import rank_zero_warn
from lightning.pytorch.utilities.seed import isolate_rng
from torch import nn

from adastate.runtime import disk
from adastate.runtime.text_files import read_lines
from adastate.stream.action_schedule import parse_actions
from callbacks.previews import tags, trackers
from callbacks.previews.preview_writer import PreviewFiles
from callbacks.previews.render import Preview, render_preview
from callbacks.protocols import Streams, log_scalars


class Rollouts(pl.Callback):
    """Renders previews at the start, at regular intervals, and at the end of fit.

    A preview changes nothing in training: no weight, mode or random state. Nor does it ever end a run: an exception is
    reported once as a warning and counted in `preview/failures`. Encoding and writing run in a thread of their own; a
    preview that is due while the last one is still being written is skipped. All ranks run the stream (sharded weights
    need every rank in every pass), and rank 0 alone decodes and writes.

    Args:
        prompts: a list, or a text file with one prompt per line.
        every: iterations between previews; 0: no previews, not even at the end.
        long: length of a long rollout in training horizons, rendered in addition to the 1x; 0 renders none.
        long_every: the long rollout is rendered with every n-th preview, and with the last.
        seed: of the noise, the same for all previews of a run.
        max_share: of the training time that previews may take. A preview that would exceed it, judged by the cost
            of the last one, is postponed until enough training time has passed. On a CPU, writing counts as well as
            rendering. The first and the last always run.
        attention: also measure attention shares, if the module offers `attention_share`.
        actions: how all previews are steered, "0s: straight", "2s: left", ..., see adastate.stream.action_schedule;
            ignored if the network cannot be steered.
    """

    def __init__(
        self,
        prompts: list[str] | str,
        every: int = 500,
        long: int = 6,
        long_every: int = 4,
        seed: int = 0,
        max_share: float = 0.03,
        attention: bool = True,
        actions: list[str] | None = None,
    ) -> None:
        if isinstance(prompts, str):
            prompts = [line for line in read_lines(Path(prompts)) if line]
        if not prompts:
            raise ValueError("no prompts to preview: give a list, or a text file with one prompt per line")
        if every < 0 or long_every < 1 or long < 0 or long == 1:
            raise ValueError(
                f"every={every}, long_every={long_every}, long={long}: every must be at least 0 (no previews), "
                "long_every at least 1, and long 0 (none) or at least 2, as the 1x rollout is always rendered"
            )
        if not 0 < max_share <= 1:
            raise ValueError(f"max_share {max_share} must lie in (0, 1]: it is a share of the training time")
        self.prompts, self.every, self.long, self.long_every = prompts, every, long, long_every
        self.seed, self.max_share, self.attention = seed, max_share, attention
        self.cues = parse_actions(actions or [])
        self.failures = 0
        self._previews = 0
        self._due = 0
        self._cost: dict[int, float] = {}  # seconds of training time that a horizon cost when last rendered
        self._done: dict[int, int] = {}  # iteration at which a horizon was last rendered
        self._ended, self._ended_at = 0.0, 0  # time and iteration at the end of the last preview
        self._on_cpu = False
        self._files: PreviewFiles | None = None
        self._thread: ThreadPoolExecutor | None = None
        self._writing: Future[dict[int, float]] | None = None

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        if stage != "fit":
            return
        _streams(pl_module)
        run = trackers.run_folder(trainer)
        if trainer.is_global_zero:
            self._files = PreviewFiles(run, trainer.loggers)
            self._thread = ThreadPoolExecutor(1, thread_name_prefix="preview")

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._on_cpu = pl_module.device.type == "cpu"
        if trainer.is_global_zero:
            now = _streams(pl_module).iteration
            try:
                trackers.log_texts(trainer.loggers, self.prompts, Path(trainer.default_root_dir) / "config.yaml", now)
            except Exception as error:  # as with previews: whatever a tracker raises
                self._failed(error, now)
        if self.every:
            self._preview(trainer, pl_module, [1])

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        now = _streams(pl_module).iteration
        if not self.every or now < self._due:
            return
        horizons = [1, self.long] if self.long and (self._previews + 1) % self.long_every == 0 else [1]
        # Clocks differ between ranks, so rank 0 decides, and only at iterations that all agree on.
        self._due = trainer.strategy.broadcast(self._next_due(now, horizons))
        if self._due <= now:
            self._preview(trainer, pl_module, horizons)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        now = _streams(pl_module).iteration
        self._finish_writing(trainer, now)
        wanted = [1, self.long][: 1 + bool(self.long)] if self.every else []
        horizons = [h for h in wanted if self._done.get(h) != now]
        if horizons:
            self._preview(trainer, pl_module, horizons)
        self._finish_writing(trainer, now)

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        if self._thread is not None:
            self._thread.shutdown(wait=True)
            self._thread = None
        if self._files is not None:
            self._files.close()

    def _next_due(self, now: int, horizons: list[int]) -> int:
        """`now` if the preview may run; else the iteration at which to check again."""
        if self._writing is not None and not self._writing.done():
            return _next_multiple(now, self.every)
        self._collect(now)
        trained = time.monotonic() - self._ended
        short = self._cost.get(1, 0.0)
        expected = sum(self._cost.get(h, short * h) for h in horizons)
        missing = expected / self.max_share - trained
        if missing <= 0:
            return now
        pace = trained / max(now - self._ended_at, 1)
        return now + min(max(1, math.ceil(missing / max(pace, 1e-9))), self.every)

    def _preview(self, trainer: pl.Trainer, pl_module: pl.LightningModule, horizons: list[int]) -> None:
        module = _streams(pl_module)
        now, begun, trained = module.iteration, time.monotonic(), time.monotonic() - self._ended
        first = not self._ended
        previews: list[Preview] = []
        exhausted = False
        with isolate_rng(), evaluating(pl_module):
            for horizon in horizons:
                start = time.monotonic()
                self._done[horizon] = now  # even if it fails on one rank: ranks must stay in step
                try:
                    made = render_preview(
                        module, self.prompts, horizon, self.seed, trainer.precision_plugin.forward_context,
                        self.attention, trainer.is_global_zero, self.cues,
                    )  # fmt: skip
                    previews += [made] if made else []
                except Exception as error:  # a preview must not end the run
                    self._failed(error, now)
                    exhausted = exhausted or isinstance(error, torch.OutOfMemoryError)
                self._cost[horizon] = time.monotonic() - start
        if exhausted:  # not inside the except clause, where the error still references the tensors
            torch.cuda.empty_cache()
        if previews and self._files is not None and self._thread is not None:
            self._writing = self._thread.submit(self._files.write, previews)
        self._previews += 1
        self._due = _next_multiple(now, self.every)
        self._ended, self._ended_at = time.monotonic(), now
        seconds = self._ended - begun
        scalars = {tags.PREVIEW_SECONDS: seconds, tags.PREVIEW_FAILURES: float(self.failures)}
        if not first:
            scalars[tags.PREVIEW_SHARE] = seconds / max(trained + seconds, 1e-9)
        for preview in previews:
            scalars |= _measurements(preview)
        log_scalars(trainer, scalars, now)

    def _collect(self, now: int) -> None:
        """Records the time that the writing thread took, or its failure."""
        if self._writing is not None and self._writing.done():
            writing, self._writing = self._writing, None
            error = writing.exception()
            if error is not None:
                self._failed(error, now)
            elif self._on_cpu:  # there it competes with training for the processor
                for horizon, seconds in writing.result().items():
                    self._cost[horizon] += seconds

    def _finish_writing(self, trainer: pl.Trainer, now: int) -> None:
        if self._writing is not None:
            before = self.failures
            self._writing.exception()  # waits
            self._collect(now)
            if self.failures > before:
                log_scalars(trainer, {tags.PREVIEW_FAILURES: float(self.failures)}, now)

    def _failed(self, error: BaseException, now: int) -> None:
        self.failures += 1
        if self.failures == 1:
            trace = "" if disk.is_fault(error) else "\n" + "".join(traceback.format_exception(error))
            rank_zero_warn(
                f"the preview at iteration {now} failed and training continues; this is reported once; further "
                f"failures are counted in {tags.PREVIEW_FAILURES}. {_remedy(error)}{trace}"
            )


def _remedy(error: BaseException) -> str:
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return "Out of memory: preview fewer prompts or set long=0."
    if isinstance(error, OSError):
        return f"{error}: check the free space and the permissions of the run folder."
    return "Fix the error shown in the trace below, or remove the Rollouts callback from the config."


def _streams(module: pl.LightningModule) -> Streams:
    if not isinstance(module, Streams):
        raise TypeError(
            f"Rollouts cannot preview {type(module).__name__}: it needs iteration, codec, rollout_frames and "
            "stream() as in callbacks/protocols.py; remove the callback from the config of this stage"
        )
    return module


def _measurements(preview: Preview) -> dict[str, float]:
    h = preview.horizon
    found = {tags.measured(h, what): value for what, value in preview.quality.items()}
    if (d := preview.drift) is not None:
        found[tags.state_cosine(h)] = d.cosine[-1]
        if d.step:
            found[tags.state_step(h)] = sum(d.step) / len(d.step)
    for slot, shares in preview.attention.items():
        found[tags.attention(h, slot)] = sum(shares) / max(len(shares), 1)
    return found


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """eval() for every submodule, and afterwards each one's previous mode: the frozen ones are not in train mode."""
    modes = [(m, m.training) for m in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for m, mode in modes:
            m.training = mode


def _next_multiple(now: int, every: int) -> int:
    return now - now % every + every
