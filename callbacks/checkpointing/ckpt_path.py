"""Resolves `--ckpt_path`, `--overwrite` and `--allow_change` of a command line."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch.utilities.rank_zero import rank_zero_only, rank_zero_warn

from adastate.runtime import atomic_folder
from callbacks.checkpointing import changed_config
from callbacks.checkpointing.resume import STATE, best, newest_checkpoint, require_whole_checkpoint, used

OVERWRITE, ALLOW = "--overwrite", "--allow_change"


def resolve_ckpt_path(words: Sequence[str], root: Path | None, saving: Mapping[str, Any] | None) -> list[str]:
    """The arguments with a path after `--ckpt_path`, and without `--overwrite` and `--allow_change`.

    `auto` is the newest complete checkpoint of the run folder, if there is one; `last` is the same, but fails if there
    is none; `best` is the one with the best monitored value. A checkpoint of this project is a folder; the argument may
    be the folder or the state file in it. Without `--ckpt_path` there must be no checkpoints; `--overwrite` moves them.

    Args:
        root: the run folder of the stage.
        saving: arguments of the run's Checkpoints callback, which later verifies the checkpoint on all ranks;
            None if the run has none: then this process verifies it now.

    Raises:
        Damaged: the named checkpoint does not match its manifest.
        ValueError: there is no such checkpoint, or the run folder already holds checkpoints.
    """
    asked, rest = _taken(words, "--ckpt_path")
    changed_config.allowed.clear()
    while any(word.partition("=")[0] == ALLOW for word in rest):
        allowed, rest = _taken(rest, ALLOW, once=True)
        changed_config.allowed.extend(allowed.split(",") if allowed else [])
    every = None if root is None else Path((saving or {}).get("dirpath") or root / "checkpoints")
    if OVERWRITE in rest:
        rest.remove(OVERWRITE)
        if every is not None:
            _overwrite(every)
    elif asked is None and every is not None and atomic_folder.folders(every):
        raise ValueError(used(every))
    state = None if asked is None else _state(asked, every, saving)
    # Our checkpoints hold plain data only, so no other objects are unpickled.
    return rest if state is None else [*rest, f"--ckpt_path={state}", "--weights_only=true"]


def _taken(words: Sequence[str], flag: str, once: bool = False) -> tuple[str | None, list[str]]:
    """(a flag's value, the other arguments); the last value wins, or with `once` the first, and repeats stay."""
    found, rest, left = None, list[str](), iter(words)
    for word in left:
        if word.partition("=")[0] == flag and not (once and found is not None):
            found = word.partition("=")[2] if "=" in word else next(left, "")
        else:
            rest.append(word)
    return (None if found in ("", "null", "None") else found), rest


def _state(asked: str, every: Path | None, saving: Mapping[str, Any] | None) -> Path | None:
    if asked not in ("auto", "last", "best"):
        state = Path(asked) / STATE if (Path(asked) / STATE).exists() else Path(asked)
        if saving is None:
            require_whole_checkpoint(state)
        return state
    if every is None:
        raise ValueError(f"--ckpt_path={asked} looks in the run folder, but trainer.default_root_dir is not set")
    there = atomic_folder.folders(every)
    if asked == "best":
        told = saving or {}
        if not told.get("monitor"):
            raise ValueError("--ckpt_path=best: set `monitor` of callbacks.Checkpoints to a logged metric, or use last")
        found = best(there, told["monitor"], told.get("mode", "min"))
        if found is None:
            raise ValueError(f"--ckpt_path=best: no checkpoint in {every} has a value for {told['monitor']}; use last")
        return found / STATE
    if asked == "last" and not there:
        raise ValueError(f"--ckpt_path=last: there is no checkpoint in {every}; leave it out, or use auto")
    if saving is not None:
        return every if there else None
    whole = newest_checkpoint(every)
    if whole is None and there:
        raise atomic_folder.Damaged(f"no checkpoint in {every} is complete: start over with --overwrite")
    return whole


@rank_zero_only
def _overwrite(every: Path) -> None:
    aside = atomic_folder.set_aside(every, atomic_folder.folders(every))
    if aside is not None:
        rank_zero_warn(f"{OVERWRITE}: the checkpoints of the earlier run are now in {aside}")
