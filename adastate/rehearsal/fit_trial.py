"""One trial of a training stage: the configuration's own trainer runs two iterations on the simulated machine."""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import sys
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.loggers.logger import DummyLogger
from lightning.pytorch.strategies import Strategy
from torch import Tensor

from adastate.config.compose import build
from adastate.rehearsal.pretended_machine import Cluster, forget_data, pretended_machine
from adastate.rehearsal.preview_trial import preview_settings, preview_trial
from adastate.rehearsal.recorder import DeviceRecorder
from adastate.rehearsal.shallow import channels_of
from adastate.rehearsal.source_lines import line_of
from adastate.rehearsal.stand_ins import StandInData, batch_shape, module_host_bytes, without_files
from adastate.rehearsal.training_phases import watch_training

SHIPPED_CALLBACKS = ("callbacks.", "lightning.", "pytorch_lightning.")
PARTS = 2
"""Maximum number of micro batches of an iteration that are run."""


@dataclass
class Trial:
    """Results of one run.

    Attributes:
        record: of its last iteration.
        parts: micro batches of a real iteration, of which `ran` were run.
        grown: increase of the device's memory in use over that iteration, in bytes.
        checkpoint: size of a checkpoint in bytes; of this rank's part if networks are sharded.
        host: bytes of host memory that this process uses.
        failed: error that ended it, in a sentence; empty if it completed.
    """

    record: DeviceRecorder
    parts: int = 1
    ran: int = 1
    grown: int = 0
    checkpoint: int = 0
    host: int = 0
    failed: str = ""
    untrained: list[str] = field(default_factory=list)


class Conductor(pl.Callback):
    """Ends the run after two iterations and a preview. The second iteration is measured: by then moments exist."""

    def __init__(self, trial: Trial, preview: dict[str, Any] | None = None) -> None:
        self.trial, self.record, self.preview = trial, trial.record, preview
        self._before = self._done = 0

    def on_train_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        trial = self.trial
        watch_training(pl_module, trainer.strategy, self.record)
        if hasattr(pl_module, "batch") and hasattr(pl_module.batch, "parts"):
            trial.parts = pl_module.batch.parts(trainer.world_size)
            self._run_parts(pl_module, trainer.world_size, 1)
            self._go_to(pl_module, 0)
        else:
            trial.parts = trial.ran = int(trainer.accumulate_grad_batches)
        self.record.enter("between")

    def _go_to(self, module: Any, after: int) -> None:
        """Sets the counter to the next iteration that trains the student."""
        every, first = module.schedule.student_every, module.schedule.critic_first
        module._iteration = next(i for i in range(max(after, first), after + first + every + 1) if i % every == 0)
        module.iterations = max(module.iterations, module._iteration + 2)

    def _run_parts(self, module: Any, world: int, parts: int) -> None:
        self.trial.ran = min(self.trial.parts, parts)
        module.batch.size = self.trial.ran * module.batch.micro * world

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: Any, *rest: Any) -> None:
        if not getattr(pl_module, "at_boundary", True) or (trainer.fit_loop._should_accumulate()):
            return
        self._done += 1
        gc.collect()
        if self._done == 1:
            self._before = self.record.memory.now
            self.record.restart()
            if hasattr(pl_module, "schedule"):
                self._go_to(pl_module, pl_module._iteration)
                self._run_parts(pl_module, trainer.world_size, PARTS)
        else:
            self.trial.grown = self.record.memory.now - self._before
            self.trial.checkpoint = checkpoint_bytes(pl_module, trainer)
            if self.preview is not None:
                preview_trial(pl_module, trainer, self.preview, self.record)
            trainer.should_stop = True
            self.record.enter("end")


def checkpoint_bytes(module: Any, trainer: pl.Trainer) -> int:
    """Bytes of a checkpoint: trained weights, averages and moments; of this rank's shards if they are sharded."""
    held = getattr(trainer.strategy, "held", None)
    if held:
        pieces = [(len(cut.moments(piece)), piece.count) for cut in held.values() for piece in cut.pieces]
        averaged = sum(_bytes(t) for cut in held.values() for t in cut.averages or ())
        return averaged + sum((1 + moments) * count * 4 for moments, count in pieces)
    frozen = getattr(sys.modules[type(module).__module__], "FROZEN", ())
    weights = [t for name, t in module.state_dict().items() if isinstance(t, Tensor) and not name.startswith(frozen)]
    moments = [t for o in trainer.optimizers for kept in o.state.values() for t in kept.values()]
    return sum(_bytes(t) for t in (*weights, *moments) if isinstance(t, Tensor))


def fit_trial(lightning: dict[str, Any], variables: dict[str, Any], cluster: Cluster) -> Trial:
    """Runs the stage of a composed configuration."""
    with pretended_machine(cluster) as recorder, without_files(channels_of(lightning)), quietly():
        trial = Trial(recorder)
        with ending(trial):
            _fit(lightning, variables, cluster, trial)
        recorder.enter("end")
    return trial


def _fit(lightning: dict[str, Any], variables: dict[str, Any], cluster: Cluster, trial: Trial) -> None:
    recorder = trial.record
    recorder.enter("build")
    with recorder.building_run():
        module: Any = build(lightning["model"], pl.LightningModule)
        forget_data(module, recorder.fake)
        told = lightning.get("trainer") or {}
        low = 2 if str(told.get("precision")).startswith("bf16") else 4
        trial.host = module_host_bytes(module, told.get("strategy"), low)
    if hasattr(module, "out"):
        module.out = None
    shape = batch_shape(lightning["data"], variables, module)
    data: Any = StandInData(shape) if shape is not None else build(lightning["data"], pl.LightningDataModule)
    told = dict(lightning.get("trainer") or {})
    trainer = _trainer(told, cluster, [*_users_callbacks(told), Conductor(trial, preview_settings(told))])
    recorder.enter("set-up")
    trainer.fit(module, data)


def _users_callbacks(told: dict[str, Any]) -> list[pl.Callback]:
    """The user's own callbacks, without those of Lightning and the project, which write files and measure time."""
    theirs = [node for node in told.get("callbacks") or () if not node["class_path"].startswith(SHIPPED_CALLBACKS)]
    return [build(node, pl.Callback) for node in theirs]


def _trainer(told: dict[str, Any], cluster: Cluster, callbacks: list[pl.Callback]) -> pl.Trainer:
    for key in (
        "logger",
        "callbacks",
        "default_root_dir",
        "enable_progress_bar",
        "accelerator",
        "devices",
        "num_nodes",
    ):
        told.pop(key, None)
    strategy = told.pop("strategy", "auto")
    if isinstance(strategy, dict):
        base: Any = Strategy
        strategy = build(strategy, base)
    elif strategy == "auto" and cluster.world > 1:
        strategy = "ddp_find_unused_parameters_true"
    told |= {"max_steps": told.get("max_steps", -1) if told.get("max_steps", -1) < 0 else 10**6}
    return pl.Trainer(
        **{**told, "enable_model_summary": False, "num_sanity_val_steps": 0, "log_every_n_steps": 10**9},
        accelerator="cuda",
        devices=cluster.gpus,
        num_nodes=cluster.nodes,
        strategy=strategy,
        callbacks=callbacks,
        logger=DummyLogger() if len(callbacks) > 1 else False,
        enable_checkpointing=False,
        enable_progress_bar=False,
    )


@contextlib.contextmanager
def ending(trial: Trial) -> Iterator[None]:
    """An exception in this context ends the trial; it is reported with the line of ours that raised it."""
    try:
        yield
    except (Exception, SystemExit) as error:
        where = line_of(error.__traceback__)
        trial.failed = f"{where + ': ' if where else ''}{_sentence(error)}"
        if os.environ.get("ADASTATE_REHEARSE_RAISES"):
            raise


@contextlib.contextmanager
def quietly() -> Iterator[None]:
    names = ("lightning.pytorch", "lightning.fabric", "lightning.pytorch.utilities.rank_zero", "DeepSpeed", "deepspeed")
    before = {name: logging.getLogger(name).level for name in names}
    for name in names:
        logging.getLogger(name).setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
    for name, level in before.items():
        logging.getLogger(name).setLevel(level)


def _sentence(error: BaseException) -> str:
    said = " ".join(str(error).split())
    return f"{type(error).__name__}: {said[:300]}" if said else type(error).__name__


def _bytes(t: Tensor) -> int:
    return t.numel() * t.element_size()
