"""TensorBoard curves whose write errors do not end the run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from lightning.fabric.loggers.logger import _DummyExperiment
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities.rank_zero import rank_zero_only, rank_zero_warn

from adastate.runtime import disk
from callbacks.previews.tags import CRITIC_LEVELS


class CurveLogger(TensorBoardLogger):
    """Lightning's TensorBoardLogger, except that points which cannot be written are dropped, with one warning.

    TensorBoard's writer stores its thread's error and raises it at every later call, so a new writer is opened.
    """

    _told = False

    def __init__(
        self,
        save_dir: str,
        name: str | None = "lightning_logs",
        version: int | str | None = None,
        log_graph: bool = False,
        default_hp_metric: bool = True,
        prefix: str = "",
        sub_dir: str | None = None,
    ) -> None:  # Lightning's accepts any keyword, so a misspelt one would go unnoticed
        super().__init__(save_dir, name, version, log_graph, default_hp_metric, prefix, sub_dir)

    @property
    def experiment(self) -> Any:
        """TensorBoard's writer, or a dummy one if its folder cannot be written."""
        try:
            return super().experiment
        except OSError as failure:
            self._tell(failure)
            return _DummyExperiment()

    @rank_zero_only
    def log_metrics(self, metrics: Any, step: int | None = None) -> None:
        # a noise level without samples in the batch is NaN; the critic does not check, as that would sync the device
        known = {k: v for k, v in metrics.items() if k not in CRITIC_LEVELS or v == v}
        self._guarded(lambda: super(CurveLogger, self).log_metrics(known, step))

    @rank_zero_only
    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        self._guarded(lambda: super(CurveLogger, self).log_hyperparams(*args, **kwargs))

    @rank_zero_only
    def save(self) -> None:
        self._guarded(super().save)

    @rank_zero_only
    def finalize(self, status: str) -> None:
        self._guarded(lambda: super(CurveLogger, self).finalize(status))

    def _guarded(self, write: Callable[[], Any]) -> None:
        try:
            write()
        except (OSError, ValueError) as told:
            # Lightning reports every exception at a point as a point of a wrong type
            failure = told if isinstance(told, OSError) else told.__cause__
            if failure is None or not disk.is_fault(failure):
                raise
            self._experiment = None
            self._tell(failure)

    def _tell(self, failure: BaseException) -> None:
        if not self._told:
            folder = Path(self.log_dir)
            reason = f"{folder}: {getattr(failure, 'strerror', None) or failure}"
            reason = disk.reason(failure, folder) if disk.is_fault(failure) else reason
            rank_zero_warn(f"curves are lost: {reason}; training continues")
        self._told = True
