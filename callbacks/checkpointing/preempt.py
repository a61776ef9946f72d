"""Stops a run at a signal: all ranks after the same step, with a complete checkpoint to resume from."""

from __future__ import annotations

import shlex
import signal
import sys
from collections.abc import Callable, Sequence
from typing import Any

import lightning.pytorch as pl
from lightning.fabric.plugins.environments import LightningEnvironment
from lightning.pytorch.utilities.rank_zero import rank_zero_info, rank_zero_warn
from torch.utils._pytree import tree_leaves
from torch.utils.data import DataLoader

from adastate.runtime import signals
from callbacks.checkpointing.checkpoints import Checkpoints, at_boundary, half_accumulated, log_event
from callbacks.protocols import iteration, iterations_apart

WORKER_S = 600
"""Seconds that a loader worker survives a SIGTERM, because its process has to finish a step and save first."""


class Preempted(SystemExit):
    """The run was asked to stop and did; the exit `code` reports this to the launcher."""


class Preempt(pl.Callback):
    """Handles signals at a batch boundary: every rank stops after the same step, and they save together.

    The handler only notes the signal. After each iteration the ranks check, with an all-reduce of one number, whether
    any of them received one; then the trainer's `Checkpoints` saves, rank 0 requeues the SLURM job, and all exit with
    `signals.AGAIN`. An iteration that has not updated anything yet is abandoned between two micro batches, or in a
    module with `updates` (adastate.training.manual_optimization) between two passes; any other is finished first. A
    signal during setup stops the run before the first step; one at the end of the run lets it finish. A second signal
    changes nothing.

    Lightning's own handlers are not installed: it would save inside the handler, where ranks are at different places,
    and at SIGTERM start a broadcast there that no other rank joins.

    Args:
        signals: names of the signals to handle.
        every: iterations between checks. At 1 the run stops at the end of the step in which the signal arrives.
        requeue: whether to requeue the SLURM job, if that is allowed.
    """

    def __init__(self, signals: Sequence[str] = signals.SIGNALS, every: int = 1, requeue: bool = True) -> None:
        self.signals, self.every, self.requeue = tuple(signals), iterations_apart(every), requeue
        self._before: dict[str, Any] = {}
        self._given_up = False

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        if stage != "fit":
            return
        self._before = signals.listen(self.signals)
        connector: Any = trainer._signal_connector
        connector.register_signal_handlers = _leave_signals_alone
        if trainer.datamodule is not None:  # type: ignore[attr-defined]
            spare_workers(trainer.datamodule, self.signals)  # type: ignore[attr-defined]
        self._before_the_first_step(trainer)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._before_the_first_step(trainer)
        updates: Any = getattr(pl_module, "updates", None)
        if updates is not None:
            updates.asked_to_stop = lambda: self._gives_up(trainer, pl_module)

    def _gives_up(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> bool:
        """Whether to abandon the current iteration; asks only if the ranks would check for signals at its end."""
        if (iteration(trainer, pl_module) + 1) % self.every == 0:
            self._given_up = self.asked_to_stop(trainer)
        return self._given_up

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        now = iteration(trainer, pl_module)
        if half_accumulated(pl_module) and self._gives_up(trainer, pl_module):
            _rewind(trainer, half_accumulated(pl_module))
        boundary = now % self.every == 0 and at_boundary(pl_module)
        if not self._given_up and (not boundary or not self.asked_to_stop(trainer) or _last(trainer)):
            return
        checkpoints = [c for c in trainer.callbacks if isinstance(c, Checkpoints)]  # type: ignore[attr-defined]
        saved = None
        if checkpoints:
            saved = checkpoints[0].save(trainer, pl_module)
        else:
            rank_zero_warn("no callbacks.Checkpoints among the callbacks: nothing was saved")
        given_up = ", the current iteration abandoned" if self._given_up else ""
        self._stop(trainer, now, (f"saved {saved}" if saved else "not saved") + given_up)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.asked_to_stop(trainer)  # so that rank 0's exit code reports a signal to any rank

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        signals.set_handlers(self._before)

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        if not isinstance(exception, Preempted):
            signals.set_handlers(self._before)

    def asked_to_stop(self, trainer: pl.Trainer) -> bool:
        """Whether any rank received a signal; afterwards every rank knows."""
        asked = trainer.strategy.reduce_boolean_decision(bool(signals.heard()), all=False)
        if asked and not signals.heard():
            signals.note_signal("a signal to another rank")
        return asked

    def _before_the_first_step(self, trainer: pl.Trainer) -> None:
        if self.asked_to_stop(trainer):
            self._stop(trainer, None, "before its first step")

    def _stop(self, trainer: pl.Trainer, now: int | None, how: str) -> None:
        trainer.strategy.barrier("preempted")
        if trainer.is_global_zero:
            # SLURM ends every process of a requeued job, so print and log first
            at = "" if now is None else f" at iteration {now}"
            rank_zero_info(f"[adastate] {signals.heard()}: stopped{at}, {how}")
            told: dict[str, Any] = {} if now is None else {"iteration": now}
            log_event(trainer, "preempted", signal=signals.heard(), how=how, **told)
        signals.ignore(self.signals)
        if trainer.is_global_zero:
            queued = signals.requeue() if self.requeue else ""
            if queued:
                log_event(trainer, "requeue", said=queued)
            rank_zero_info(f"[adastate] {queued or f'resume with: {_command()}'}")
        raise Preempted(0 if _started_by_lightning(trainer) else signals.AGAIN)


class Patient:
    """A loader worker's init function: a signal to the whole job must not end the worker while its process saves.

    SIGTERM is also how that process ends a worker that hangs, so it still ends the worker, but later.
    """

    def __init__(self, names: Sequence[str], then: Callable[[int], None] | None) -> None:
        self.names, self.then = names, then

    def __call__(self, worker: int) -> None:
        signals.set_handlers({name: _in_a_while if name == "SIGTERM" else signal.SIG_IGN for name in self.names})
        if self.then is not None:
            self.then(worker)


def spare_workers(data: Any, names: Sequence[str]) -> None:
    """Makes a datamodule's loader workers patient; in `setup`, as Lightning starts them before any later hook."""
    make = data.train_dataloader

    def train_dataloader() -> Any:
        loaders = make()
        for loader in tree_leaves(loaders):
            if isinstance(loader, DataLoader) and loader.num_workers:
                loader.worker_init_fn = Patient(names, loader.worker_init_fn)
        return loaders

    data.train_dataloader = train_dataloader


def _in_a_while(*_: Any) -> None:
    signal.alarm(WORKER_S)


def _leave_signals_alone() -> None:
    """Replaces Lightning's registration of signal handlers by nothing."""


def _rewind(trainer: pl.Trainer, batches: int) -> None:
    """Subtracts micro batches from the counter by which Lightning decides when to step."""
    progress = trainer.fit_loop.epoch_loop.batch_progress
    progress.total.increment_by(-batches)
    progress.current.increment_by(-batches)


def _last(trainer: pl.Trainer) -> bool:
    """Whether the run ends anyway after this step; then it should simply finish."""
    return trainer.should_stop or 0 <= trainer.max_steps <= trainer.global_step


def _started_by_lightning(trainer: pl.Trainer) -> bool:
    """If so, Lightning kills the whole run when this process exits with an error, whatever the others do."""
    environment = getattr(trainer.strategy, "cluster_environment", None)
    return isinstance(environment, LightningEnvironment) and trainer.local_rank > 0


def _command() -> str:
    resumed = [] if any(word.startswith("--ckpt_path") for word in sys.argv) else ["--ckpt_path=auto"]
    return f"adastate {shlex.join([*sys.argv[1:], *resumed])}"
