"""Atomic checkpoints, and runs that continue from them as if never interrupted."""

from __future__ import annotations

import math
import shutil
import time
import uuid
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.utilities.rank_zero import rank_zero_info, rank_zero_warn

from adastate.runtime import atomic, atomic_folder, disk, folder_lock, json_lines, secrets
from adastate.runtime.ranks import sample_rank
from callbacks.checkpointing import changed_config
from callbacks.checkpointing.collectives import first, gathered
from callbacks.checkpointing.direct_io import write_directly
from callbacks.checkpointing.finite import not_finite
from callbacks.checkpointing.resume import FORMAT, STATE, best, look_first, used, versions
from callbacks.protocols import iteration

LOG = "run.log.jsonl"


class Checkpoints(Checkpoint):
    """Saves the complete run at regular intervals, keeps the newest and best checkpoints, and survives a full disk.

    A checkpoint is a folder `<dirpath>/<iteration>/`: the strategy's state, the resolved config, and a manifest with
    checksums, the seed, the iteration, the world and the versions. It appears only once it is complete. Frozen networks
    are left out where the module says so.

    The folder belongs to one run at a time. If a run resumes from an earlier checkpoint, later ones are moved to
    `aside-1`, `aside-2`, ...; a run that starts from scratch is refused if the folder holds checkpoints.

    Args:
        dirpath: folder of the checkpoints.
        every: iterations between checkpoints.
        every_minutes: also save after this many minutes; 0 is off.
        keep: how many of the newest to keep.
        monitor: a logged metric; the checkpoint with its lowest (or highest) value is kept as well.
        mode: "min" or "max".
    """

    def __init__(
        self,
        dirpath: str,
        every: int = 100,
        every_minutes: float = 0.0,
        keep: int = 2,
        monitor: str | None = None,
        mode: str = "min",
    ) -> None:
        super().__init__()
        if every < 1 or keep < 1:
            raise ValueError(f"every {every} and keep {keep}: both must be at least 1")
        if mode not in ("min", "max"):
            raise ValueError(f"mode {mode!r} must be 'min' or 'max'")
        self.root, self.every, self.every_minutes = Path(dirpath), every, every_minutes
        self.keep, self.monitor, self.mode = keep, monitor, mode
        self._saved_at, self._saved_time = -1, time.monotonic()
        self.last: Path | None = None
        """The newest checkpoint of this run."""
        self.last_good: Path | None = None
        """The newest checkpoint saved after an iteration in which no update was skipped."""
        self._resumed: Path | None = None
        self._losses_then: dict[str, float] = {}
        self._changes = changed_config.Changes()
        self.run_id = ""
        """Shared by a run and all runs that resume from it; stored in every manifest and in every rank's files."""

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        error = ""
        if trainer.is_global_zero:
            try:
                folder_lock.acquire(Path(trainer.default_root_dir))
                atomic_folder.sweep(self.root)
            except folder_lock.FolderInUse as failure:
                error = str(failure)
            except OSError as failure:
                error = disk.reason(failure, self.root)
        if error := trainer.strategy.broadcast(error):
            raise folder_lock.FolderInUse(error)
        self.run_id = trainer.strategy.broadcast(uuid.uuid4().hex[:12])
        write_directly(trainer)
        look_first(trainer, lambda state: self._found(trainer, state))

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        folder_lock.release(Path(trainer.default_root_dir))

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        folder_lock.release(Path(trainer.default_root_dir))

    def _found(self, trainer: pl.Trainer, state: Path) -> None:
        """Checks a checkpoint's configuration before the checkpoint is loaded."""
        self._resumed = state.parent
        then, now = (folder / changed_config.CONFIG for folder in (state.parent, Path(trainer.default_root_dir)))
        told, now_world = self._told(state.parent), sample_rank(trainer).world
        worlds = (told["world"] // told.get("sequence_parallel", 1) if "world" in told else now_world, now_world)
        found = changed_config.changes(then, now, changed_config.allowed, worlds)
        self._changes = trainer.strategy.broadcast(found)
        if self._changes.refused:
            if trainer.is_global_zero:  # the run folder's config keeps describing its checkpoints
                atomic.write_bytes(now, then.read_bytes())
            raise ValueError(self._changes.refused)
        self.run_id = self._told(state.parent).get("run") or self.run_id

    def _told(self, folder: Path) -> dict[str, Any]:
        """A checkpoint's manifest; empty if the folder has none."""
        return atomic_folder.checked_manifest(folder) if (folder / atomic_folder.MANIFEST).is_file() else {}

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._saved_at = iteration(trainer, pl_module)
        error = ""
        if trainer.is_global_zero:
            try:
                error = self._begin(trainer)
            except OSError as failure:
                error = disk.reason(failure, self.root)
        if error := trainer.strategy.broadcast(error):
            raise ValueError(error)
        if self._resumed is not None:
            self._say_resumed(trainer, self._resumed)
        if self._changes.rates:
            changed_config.apply_rates(trainer)
        if self._changes.told:
            log_event(trainer, "configuration changed", iteration=self._saved_at, changes=self._changes.told)
            rank_zero_info(f"[adastate] resumes with another configuration: {'; '.join(self._changes.told)}")

    def _begin(self, trainer: pl.Trainer) -> str:
        """Why the run must not begin here, or ""; moves checkpoints later than the resumed one aside."""
        there = atomic_folder.folders(self.root)
        if self._resumed is None:
            return used(self.root) if there else ""
        later = [p for p in there if int(p.name[-8:]) > self._saved_at]
        if self._resumed.absolute().parent != self.root.absolute():
            later = there  # resumed from a copy, or from another run
        if aside := atomic_folder.set_aside(self.root, later):
            log_event(
                trainer, "set aside", iteration=self._saved_at, folder=str(aside), checkpoints=[p.name for p in later]
            )
            names = ", ".join(p.name for p in later)
            rank_zero_warn(f"the run resumes from {self._resumed}: later checkpoints ({names}) are moved to {aside}")
        return ""

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        checkpoint["save"] = {"run": self.run_id, "iteration": iteration(trainer, pl_module)}

    def _say_resumed(self, trainer: pl.Trainer, folder: Path) -> None:
        self.last, told = folder, self._told(folder)
        digest = atomic_folder.fingerprint(folder) if told else ""
        self.last_good = None if told.get("left_out") else folder
        self._losses_then = told.get("losses", {})
        log_event(trainer, "resumed", checkpoint=str(folder), sha256=digest, iteration=self._saved_at)
        then = f", where the losses were {_spelt(self._losses_then)}" if self._losses_then else ""
        named = f" (sha256 {digest})" if digest else ""
        rank_zero_info(f"[adastate] resumes from {folder}{named} at iteration {self._saved_at}{then}")

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        now = iteration(trainer, pl_module)
        if self._losses_then and now != self._saved_at:
            losses = _losses(trainer)
            rank_zero_info(
                f"[adastate] losses at iteration {now}: {_spelt(losses)}; before the stop: {_spelt(self._losses_then)}"
            )
            self._losses_then = {}
        if getattr(pl_module, "skip_reason", ""):
            log_event(trainer, "update left out", iteration=now, reason=pl_module.skip_reason)
        if now == self._saved_at or not at_boundary(pl_module):
            return
        # every rank has the same iteration, but not the same clock
        late = self.every_minutes > 0 and trainer.strategy.reduce_boolean_decision(
            time.monotonic() - self._saved_time > 60 * self.every_minutes, all=False
        )
        if now % self.every == 0 or late:
            self.save(trainer, pl_module)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if iteration(trainer, pl_module) != self._saved_at and at_boundary(pl_module):
            self.save(trainer, pl_module)

    def save(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> Path | None:
        """Saves now, on all ranks together; None if writing failed or a weight is not finite."""
        now = iteration(trainer, pl_module)
        self._saved_at, self._saved_time = now, time.monotonic()
        name, began, error, unpruned = f"{now:08d}", time.monotonic(), "", ""
        scratch, final = self.root / f"{atomic_folder.UNFINISHED}{name}", None
        error = first(trainer, not_finite(trainer, pl_module))
        if not error and trainer.is_global_zero:
            try:
                atomic_folder.begin(self.root, name)
            except OSError as failure:
                error = disk.reason(failure, self.root)
        # every rank has to know of a write error on any rank, or they would wait for each other
        error = first(trainer, error) or first(trainer, self._write(trainer, scratch / STATE))
        if not error:
            written, error = self._digests(trainer, scratch)
        if not error and trainer.is_global_zero:
            try:
                self._copy_config(trainer, scratch)
                final = atomic_folder.seal(scratch, self._facts(trainer, now), written)
            except OSError as failure:
                error = disk.reason(failure, self.root)
        if final is not None:
            self.last_good = self.last_good if getattr(pl_module, "skip_reason", "") else final
            unpruned = self._prune(final)
        if error and trainer.is_global_zero:
            shutil.rmtree(scratch, ignore_errors=True)
            kept = ", ".join(p.name for p in atomic_folder.folders(self.root)) or "none"
            rank_zero_warn(f"checkpoint {now} not saved: {error}; earlier ones are intact ({kept}), training continues")
        self.last = final or self.last
        told = {"checkpoint": str(final)} if final else {"error": error}
        told |= {"not_removed": unpruned} if unpruned else {}
        log_event(trainer, "saved" if final else "not saved", iteration=now, seconds=time.monotonic() - began, **told)
        trainer.strategy.barrier("end checkpoint")
        return final

    def _write(self, trainer: pl.Trainer, path: Path) -> str:
        """Has the strategy write; returns the write error on the ranks that encountered it, else ""."""
        try:
            trainer.save_checkpoint(path, weights_only=False)
        except (OSError, RuntimeError) as failure:
            if not disk.is_fault(failure):
                raise
            trainer.strategy.barrier("Trainer.save_checkpoint")  # the other ranks wait in this barrier
            return disk.reason(failure, self.root)
        return ""

    def _digests(self, trainer: pl.Trainer, scratch: Path) -> tuple[dict[str, atomic_folder.File], str]:
        """(all written files, read error or ""); each rank reads a share, as one rank alone would take too long."""
        mine, error = dict[str, atomic_folder.File](), ""
        try:
            mine = atomic_folder.digests(scratch, trainer.global_rank, trainer.world_size)
        except OSError as failure:
            error = disk.reason(failure, self.root)
        found = {name: file for part in gathered(trainer, mine) for name, file in part.items()}
        return found, first(trainer, error)

    def _copy_config(self, trainer: pl.Trainer, scratch: Path) -> None:
        config = Path(trainer.default_root_dir) / changed_config.CONFIG
        if config.is_file():
            shutil.copyfile(config, scratch / changed_config.CONFIG)

    def _facts(self, trainer: pl.Trainer, now: int) -> dict[str, Any]:
        value = trainer.callback_metrics.get(self.monitor) if self.monitor else None
        return {
            "format": FORMAT,
            "iteration": now,
            "run": self.run_id,
            "left_out": getattr(trainer.lightning_module, "skip_reason", ""),
            "seed": getattr(trainer.lightning_module, "seed", None),
            "losses": _losses(trainer),
            "global_step": trainer.global_step,
            "world": trainer.world_size,
            "sequence_parallel": trainer.world_size // sample_rank(trainer).world,
            "strategy": type(trainer.strategy).__name__,
            "monitor": None if value is None else {self.monitor: float(value)},
            "versions": versions(),
            "saved": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        }

    def _prune(self, saved: Path) -> str:
        """Deletes checkpoints that need not be kept, never the one just saved; returns why a deletion failed, or ""."""
        every = [p for p in atomic_folder.folders(self.root) if not atomic_folder.is_copy(p)]
        spared = {*every[-self.keep :], saved, self.last_good, best(every, self.monitor, self.mode)}
        try:
            for folder in every:
                if folder not in spared:
                    atomic_folder.delete(folder)
        except OSError as failure:
            rank_zero_warn(f"checkpoint {saved.name} is saved; {folder} could not be deleted: {failure.strerror}")
            return f"{folder}: {failure.strerror}"
        return ""


def at_boundary(module: pl.LightningModule) -> bool:
    """Whether the module is between two iterations, with no partially accumulated gradient."""
    return bool(getattr(module, "at_boundary", True)) and not half_accumulated(module)


def half_accumulated(module: pl.LightningModule) -> int:
    """Micro batches since the last step if Lightning accumulates gradients; checkpoints contain its count of them."""
    trainer = module.trainer
    if not module.automatic_optimization:
        return 0
    return int(trainer.fit_loop.epoch_loop.batch_progress.current.ready % trainer.accumulate_grad_batches)


def log_event(trainer: pl.Trainer, event: str, **told: Any) -> None:
    """Appends a line to the run's log: every save, resume, preemption and guard action."""
    if not trainer.is_global_zero:
        return
    line = {"time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), "event": event, **told}
    path = Path(trainer.default_root_dir) / LOG
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        json_lines.append(path, secrets.without_secrets(line))
    except OSError:
        return  # a full disk; the event is printed on the console as well


def _losses(trainer: pl.Trainer) -> dict[str, float]:
    found = {k: float(v) for k, v in trainer.callback_metrics.items() if k.endswith("loss")}
    return {k: v for k, v in found.items() if math.isfinite(v)}


def _spelt(losses: dict[str, float]) -> str:
    return ", ".join(f"{k} {v:.4g}" for k, v in sorted(losses.items()))
