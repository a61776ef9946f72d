"""Progress on one line: a bar in a terminal, an occasional plain line in a log file."""

from __future__ import annotations

import math
import time
from datetime import timedelta
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import ProgressBar, Timer
from rich.console import Console
from rich.progress import BarColumn, TextColumn
from rich.progress import Progress as RichProgress

from callbacks.protocols import HasIterations, iteration

MOST_METRICS = 4


class Progress(ProgressBar):
    """Iteration, losses and time left, in place of Lightning's bar, which counts batches and epochs.

    The losses are what the modules log with `prog_bar=True`, or else all metrics whose names end in `loss`. The time
    left follows from the module's own `iterations` or from the Trainer's nearest limit (max_steps, max_epochs,
    max_time); it is not shown if there is none.

    Args:
        total: iterations of the stage; None: the module's, or else the Trainer's limits.
        every_s: seconds between lines when the output is not a terminal.
    """

    def __init__(self, total: int | None = None, every_s: float = 30.0) -> None:
        super().__init__()
        self.total, self.every_s = total, every_s
        self._console = Console()
        self._shown = True
        self._bar: RichProgress | None = None
        self._begun, self._begun_share, self._drawn = 0.0, 0.0, 0.0
        self._begun_at = 0

    def disable(self) -> None:
        self._shown = False

    def enable(self) -> None:
        self._shown = True

    def print(self, *args: Any, **kwargs: Any) -> None:
        self._console.print(*args, **kwargs)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._begun = time.monotonic()
        self._begun_at = iteration(trainer, pl_module)
        self._begun_share = self._share(trainer, pl_module, self._begun_at) or 0.0
        self._drawn = 0.0
        if self._shown and self._console.is_terminal:
            columns = (TextColumn("{task.description}"), BarColumn(bar_width=30), TextColumn("{task.fields[text]}"))
            self._bar = RichProgress(*columns, console=self._console, refresh_per_second=4)
            self._bar.add_task(type(pl_module).__name__.lower(), total=None, text="")
            self._bar.start()

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        # Rarely, because reading a metric synchronises the device.
        pause = 0.5 if self._bar is not None else self.every_s
        if time.monotonic() - self._drawn >= pause:
            self._draw(trainer, pl_module)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._draw(trainer, pl_module)
        self._stop()

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        self._stop()

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        self._stop()

    def _stop(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def _draw(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self._drawn = time.monotonic()
        if not self._shown:
            return
        now = iteration(trainer, module)
        share = self._share(trainer, module, now)
        text = self._line(trainer, now, share)
        if self._bar is None:
            print(f"{type(module).__name__.lower()}  {text}", flush=True)
        else:
            total = None if share is None else 1.0
            self._bar.update(self._bar.task_ids[0], total=total, completed=share, text=text)

    def _line(self, trainer: pl.Trainer, now: int, share: float | None) -> str:
        elapsed = self._drawn - self._begun
        parts = [f"iteration {now:,}" + (f" of {round(now / share):,}" if share and now else "")]
        metrics = trainer.progress_bar_metrics or {k: float(v) for k, v in trainer.callback_metrics.items() if _loss(k)}
        parts += [f"{k} {v:.4g}" for k, v in list(metrics.items())[:MOST_METRICS]]
        if elapsed > 0 and now > self._begun_at:
            pace = (now - self._begun_at) / elapsed
            parts.append(f"{pace:.2f} it/s" if pace >= 1 else f"{1 / pace:.2f} s/it")
        parts.append(f"{_clock(elapsed)} gone")
        if share is not None and share > self._begun_share:
            parts.append(f"{_clock(elapsed * (1 - share) / (share - self._begun_share))} left")
        return "  ".join(parts)

    def _share(self, trainer: pl.Trainer, module: pl.LightningModule, now: int) -> float | None:
        """Fraction of the stage done, 0 to 1, by the nearest limit; None if nothing limits it."""
        total = module.iterations if self.total is None and isinstance(module, HasIterations) else self.total
        if total is not None:
            return min(1.0, now / max(total, 1))
        shares = []
        if trainer.max_steps > 0:
            shares.append(trainer.global_step / trainer.max_steps)
        if (trainer.max_epochs or -1) > 0 and math.isfinite(trainer.num_training_batches):
            batches = trainer.max_epochs * int(trainer.num_training_batches)  # type: ignore[operator]
            shares.append((trainer.fit_loop.epoch_loop.total_batch_idx + 1) / max(batches, 1))
        for timer in (c for c in trainer.callbacks if isinstance(c, Timer)):  # type: ignore[attr-defined]
            left = timer.time_remaining()
            if left is not None:
                gone = timer.time_elapsed()
                shares.append(gone / max(gone + left, 1e-9))
        return min(1.0, max(shares)) if shares else None


def _loss(name: str) -> bool:
    return name.endswith("loss")


def _clock(seconds: float) -> str:
    """1:02:03, or 2:03 below an hour."""
    text = str(timedelta(seconds=round(seconds)))
    return text.removeprefix("0:").removeprefix("0") if seconds < 3600 else text
