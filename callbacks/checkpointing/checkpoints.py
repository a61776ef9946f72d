"""Checkpoints that are whole or absent, and a run that goes on from them as if it had never stopped."""

from __future__ import annotations

import errno
import json
import math
import shutil
import time
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.utilities.rank_zero import rank_zero_info, rank_zero_warn
from torch.distributed.checkpoint.api import CheckpointException

from callbacks.checkpointing import atomic_folder
from callbacks.checkpointing.collectives import first, gathered
from callbacks.checkpointing.resume import FORMAT, STATE, look_first, versions
from callbacks.protocols import iteration

LOG = "run.log.jsonl"


class Checkpoints(Checkpoint):
    """Saves the whole run every so many iterations, keeps the newest and the best, and loses none to a full disk.

    A checkpoint is a folder `<dirpath>/<iteration>/`: the strategy's state, the resolved config, and a manifest with
    checksums, the seed, the iteration, the world and the versions. It appears when it is complete. Networks that are
    frozen are left out where the module says so.

    Args:
        dirpath: folder of the checkpoints.
        every: iterations between them.
        every_minutes: and at least so often; 0 is off.
        keep: newest ones to keep.
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
            raise ValueError(f"every {every} and keep {keep}: both are at least 1")
        if mode not in ("min", "max"):
            raise ValueError(f"mode {mode!r}: 'min' or 'max'")
        self.root, self.every, self.every_minutes = Path(dirpath), every, every_minutes
        self.keep, self.monitor, self.mode = keep, monitor, mode
        self._saved_at, self._saved_time = -1, time.monotonic()
        self.last: Path | None = None
        """The newest checkpoint of this run."""
        self._resumed: Path | None = None
        self._losses_then: dict[str, float] = {}

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        if trainer.is_global_zero:
            atomic_folder.sweep(self.root)
        trainer.strategy.barrier("sweep checkpoints")
        look_first(trainer, self._found)

    def _found(self, state: Path) -> None:
        self._resumed = state.parent

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._saved_at = iteration(trainer, pl_module)
        if self._resumed is not None:
            self._say_resumed(trainer, self._resumed)

    def _say_resumed(self, trainer: pl.Trainer, folder: Path) -> None:
        self.last, told, digest = folder, {}, ""
        if (folder / atomic_folder.MANIFEST).is_file():
            told, digest = atomic_folder.facts(folder), atomic_folder.fingerprint(folder)
        self._losses_then = told.get("losses", {})
        note(trainer, "resumed", checkpoint=str(folder), sha256=digest, iteration=self._saved_at)
        then = f", where the losses were {_spelt(self._losses_then)}" if self._losses_then else ""
        named = f" (sha256 {digest})" if digest else ""
        rank_zero_info(f"[adastate] goes on from {folder}{named} at iteration {self._saved_at}{then}")

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        now = iteration(trainer, pl_module)
        if self._losses_then and now != self._saved_at:
            losses = _losses(trainer)
            rank_zero_info(
                f"[adastate] losses at iteration {now}: {_spelt(losses)}; before the stop {_spelt(self._losses_then)}"
            )
            self._losses_then = {}
        if getattr(pl_module, "skip_reason", ""):
            note(trainer, "update left out", iteration=now, reason=pl_module.skip_reason)
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
        """Saves now, on all ranks together; None where the disk did not take it."""
        now = iteration(trainer, pl_module)
        self._saved_at, self._saved_time = now, time.monotonic()
        name, began, error = f"{now:08d}", time.monotonic(), ""
        scratch, final = self.root / f"{atomic_folder.UNFINISHED}{name}", None
        if trainer.is_global_zero:
            try:
                atomic_folder.begin(self.root, name)
            except OSError as failure:
                error = _reason(failure, self.root)
        # what any rank's disk refuses all have to know, or they would wait for each other
        error = first(trainer, error) or first(trainer, self._write(trainer, scratch / STATE))
        if not error:
            written, error = self._digests(trainer, scratch)
        if not error and trainer.is_global_zero:
            try:
                self._copy_config(trainer, scratch)
                final = atomic_folder.seal(scratch, self._facts(trainer, now), written)
                self._prune()
            except OSError as failure:
                error = _reason(failure, self.root)
        if error and trainer.is_global_zero:
            shutil.rmtree(scratch, ignore_errors=True)
            kept = ", ".join(p.name for p in atomic_folder.folders(self.root)) or "none"
            rank_zero_warn(f"checkpoint {now} not saved: {error}; earlier ones are intact ({kept}), training goes on")
        self.last = final or self.last
        told = {"checkpoint": str(final)} if final else {"error": error}
        note(trainer, "saved" if final else "not saved", iteration=now, seconds=time.monotonic() - began, **told)
        trainer.strategy.barrier("end checkpoint")
        return final

    def _write(self, trainer: pl.Trainer, path: Path) -> str:
        """Has the strategy write; returns why a disk did not take it, on those ranks that found out."""
        try:
            trainer.save_checkpoint(path, weights_only=False)
        except BaseException as failure:  # torch's own for sharded checkpoints is no Exception
            reason = _of_disk(failure)
            if reason is None:
                raise
            trainer.strategy.barrier("Trainer.save_checkpoint")  # the others stand there
            return _reason(reason, self.root)
        return ""

    def _digests(self, trainer: pl.Trainer, scratch: Path) -> tuple[dict[str, atomic_folder.File], str]:
        """(all that was written, why it cannot be read); each rank reads a part, or one would keep the rest waiting."""
        mine, error = dict[str, atomic_folder.File](), ""
        try:
            mine = atomic_folder.digests(scratch, trainer.global_rank, trainer.world_size)
        except OSError as failure:
            error = _reason(failure, self.root)
        found = {name: file for part in gathered(trainer, mine) for name, file in part.items()}
        return found, first(trainer, error)

    def _copy_config(self, trainer: pl.Trainer, scratch: Path) -> None:
        config = Path(trainer.default_root_dir) / "config.yaml"
        if config.is_file():
            shutil.copyfile(config, scratch / "config.yaml")

    def _facts(self, trainer: pl.Trainer, now: int) -> dict[str, Any]:
        value = trainer.callback_metrics.get(self.monitor) if self.monitor else None
        return {
            "format": FORMAT,
            "iteration": now,
            "seed": getattr(trainer.lightning_module, "seed", None),
            "losses": _losses(trainer),
            "global_step": trainer.global_step,
            "world": trainer.world_size,
            "strategy": type(trainer.strategy).__name__,
            "monitor": None if value is None else {self.monitor: float(value)},
            "versions": versions(),
            "saved": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        }

    def _prune(self) -> None:
        every = atomic_folder.folders(self.root)
        spared = set(every[-self.keep :])
        best = self._best(every)
        if best is not None:
            spared.add(best)
        for folder in every:
            if folder not in spared:
                atomic_folder.delete(folder)

    def _best(self, every: list[Path]) -> Path | None:
        if self.monitor is None:
            return None
        values: list[tuple[float, Path]] = []
        for folder in every:
            value = (atomic_folder.facts(folder).get("monitor") or {}).get(self.monitor)
            if value is not None and math.isfinite(value):
                values.append((value if self.mode == "min" else -value, folder))
        return min(values, default=(0.0, None), key=lambda pair: pair[0])[1]


def at_boundary(module: pl.LightningModule) -> bool:
    """Whether the module stands between two iterations, with no gradient half accumulated."""
    return bool(getattr(module, "at_boundary", True))


def note(trainer: pl.Trainer, event: str, **told: Any) -> None:
    """One line in the run's log: every save, resume, preemption and guard action."""
    if not trainer.is_global_zero:
        return
    line = {"time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), "event": event, **told}
    path = Path(trainer.default_root_dir) / LOG
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
    except OSError:
        return  # a full disk: what happened is on the screen as well


def _losses(trainer: pl.Trainer) -> dict[str, float]:
    found = {k: float(v) for k, v in trainer.callback_metrics.items() if k.endswith("loss")}
    return {k: v for k, v in found.items() if math.isfinite(v)}


def _spelt(losses: dict[str, float]) -> str:
    return ", ".join(f"{k} {v:.4g}" for k, v in sorted(losses.items()))


def _of_disk(failure: BaseException) -> BaseException | None:
    """The failure behind `failure` that a disk is to blame for.

    torch.save tells of a full disk in a RuntimeError of its own words, and of what failed on any rank in one with all.
    """
    if isinstance(failure, CheckpointException):
        found = [_of_disk(error) for error, _ in failure.failures.values()]
        return found[0] if found and None not in found else None
    if isinstance(failure, OSError):
        full = failure.errno in (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS, errno.EFBIG)
        return failure if full else None
    said = str(failure).lower()
    told = ("no space", "file write failed", "pytorchstreamwriter", "unexpected pos")
    return failure if isinstance(failure, RuntimeError) and any(words in said for words in told) else None


def _reason(failure: BaseException, root: Path) -> str:
    try:
        free = f"{shutil.disk_usage(root if root.exists() else root.parent).free / 2**30:.1f} GB free"
    except OSError:
        free = "free space unknown"
    words = failure.strerror if isinstance(failure, OSError) and failure.strerror else str(failure).splitlines()[0]
    return f"{words} at {root} ({free}); make room"
