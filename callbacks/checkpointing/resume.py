"""Finds the checkpoint that a run resumes from; all ranks verify it together before it is loaded.

Each rank reads its share of the files, so that sixteen ranks do not read a large checkpoint sixteen times; if any of
them finds damage, all raise the error or skip the checkpoint.
"""

from __future__ import annotations

import importlib.metadata
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.utilities.rank_zero import rank_zero_warn

from adastate.runtime import atomic_folder
from callbacks.checkpointing.collectives import first, gathered

STATE = "state.ckpt"
"""What the strategy saves: a file, or a folder for sharded engines."""

FORMAT = 1
"""Format of a checkpoint. Later formats are refused; raise it when an older reader would misread the new one."""

PACKAGES = ("adastate", "torch", "lightning", "deepspeed", "webdataset")


def newest_checkpoint(root: Path, trainer: pl.Trainer | None = None) -> Path | None:
    """The state to resume from: that of the newest checkpoint with valid checksums; damaged ones are reported.

    Args:
        trainer: its ranks verify together, so all have to call this; None: this process reads everything.
    """
    for folder in reversed(gathered(trainer, atomic_folder.folders(root))[0]):
        wrong = _wrong(folder, trainer)
        if not wrong:
            return Path(folder / STATE)
        rank_zero_warn(f"{wrong}; resuming from an earlier checkpoint")
    return None


def best(every: Sequence[Path], monitor: str | None, mode: str = "min") -> Path | None:
    """The checkpoint with the lowest (or highest) value of a metric; unreadable ones are skipped."""
    values: list[tuple[float, Path]] = []
    for folder in every if monitor else ():
        try:
            value = float((atomic_folder.checked_manifest(folder).get("monitor") or {}).get(monitor, math.nan))
        except (atomic_folder.Damaged, TypeError, ValueError):
            continue
        if math.isfinite(value):
            values.append((value if mode == "min" else -value, folder))
    return min(values, default=(0.0, None), key=lambda pair: pair[0])[1]


def used(root: Path) -> str:
    """The error for a new run in a folder that already holds checkpoints."""
    return (
        f"{root} holds checkpoints of an earlier run: resume from them with --ckpt_path=auto, choose another folder "
        "with RUN=another/folder, or start over here with --overwrite, which moves them aside"
    )


def require_whole_checkpoint(state: Path, trainer: pl.Trainer | None = None) -> None:
    """Raises atomic_folder.Damaged unless the checkpoint of this state is readable and matches its manifest. A file
    with another name was not written by this project; without a manifest it is not checked."""
    if state.name == STATE or gathered(trainer, (state.parent / atomic_folder.MANIFEST).is_file())[0]:
        wrong = _wrong(state.parent, trainer)
        if wrong:
            raise atomic_folder.Damaged(wrong)


def look_first(trainer: pl.Trainer, found: Callable[[Path], None]) -> None:
    """Makes all ranks verify a checkpoint together before the strategy loads it.

    Lightning passes the path to no earlier hook, so the strategy's own method is wrapped. Given a folder of
    checkpoints, it loads the newest complete one.

    Args:
        found: called with the state that is going to be loaded.
    """
    strategy: Any = trainer.strategy
    if "load_checkpoint" in vars(strategy):
        return  # already wrapped by an earlier fit
    read = strategy.load_checkpoint

    def load_checkpoint(path: Any, *args: Any, **kwargs: Any) -> Any:
        state: Path | None = Path(path)
        if gathered(trainer, bool(atomic_folder.folders(Path(path))))[0]:
            state = newest_checkpoint(Path(path), trainer)
            if state is None:
                raise atomic_folder.Damaged(
                    f"no checkpoint in {path} is complete: start over with RUN=another/folder, or with --overwrite"
                )
        else:
            require_whole_checkpoint(Path(path), trainer)
        assert state is not None
        found(state)
        return read(state, *args, **kwargs)

    strategy.load_checkpoint = load_checkpoint


def versions() -> dict[str, str]:
    """Versions of the project and of the packages that a checkpoint depends on."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return {**found, "torch": torch.__version__}


def _wrong(folder: Path, trainer: pl.Trainer | None) -> str:
    """The damage that the first rank found in its share, on all ranks; "" for a complete checkpoint.

    Raises:
        atomic_folder.Damaged: it is complete but of a later format.
    """
    rank, world = (0, 1) if trainer is None else (trainer.global_rank, trainer.world_size)
    said, manifest = "", dict[str, Any]()
    try:
        manifest = atomic_folder.verify(folder, rank, world)
        lacking = [name for name in ("iteration", "format", "versions") if name not in manifest]
        if lacking or not any(name.split("/")[0] == STATE for name in manifest["files"]):
            said = f"{folder / atomic_folder.MANIFEST} lacks the {(*lacking, STATE)[0]} of a checkpoint"
    except atomic_folder.Damaged as error:
        said = str(error)
    except OSError as error:  # the other ranks wait for this one's result
        said = f"{folder} cannot be read ({error.strerror or error})"
    said = first(trainer, said)
    if not said:
        _readable(folder, manifest)
    return said


def _readable(folder: Path, manifest: dict[str, Any]) -> None:
    written, mine = manifest["versions"], versions()
    if manifest["format"] > FORMAT:
        raise atomic_folder.Damaged(
            f"{folder} was written by adastate {written.get('adastate', 'of a later version')} in format "
            f"{manifest['format']}; this one, {mine.get('adastate', 'not installed')}, reads formats up to {FORMAT}: "
            "update it"
        )
    for name in ("lightning", "deepspeed"):
        there, here = written.get(name, ""), mine.get(name, "")
        if there and here and there.split(".")[:2] != here.split(".")[:2]:
            rank_zero_warn(f"{folder} was saved with {name} {there}, and is loaded with {here}")
