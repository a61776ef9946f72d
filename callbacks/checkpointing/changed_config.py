"""Differences between a resumed run's configuration and its checkpoint's: printed, applied, or refused.

A checkpoint restores its optimisers' learning rates, which would override those of the command line; and a run that
resumes with another stream, seed, batch or data does not continue the run of the checkpoint.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import lightning.pytorch as pl
from lightning.pytorch.core.optimizer import _init_optimizers_and_lr_schedulers
from torch.optim.lr_scheduler import LambdaLR

from adastate.runtime import plain_yaml, run_paths
from callbacks.checkpointing.new_defaults import defaults_of

CONFIG = "config.yaml"
RATES = re.compile(r"model\..*\b(student_lr|critic_lr|lr|muon_lr|betas|weight_decay)$")
WITHOUT_EFFECT = re.compile(
    r"(ckpt_path|weights_only|trainer\.(default_root_dir|callbacks|logger)|data\.(batch|workers)$|.*\bdirpath$)"
)
KEPT = re.compile(r"(data\.|seed_everything$|model\.class_path$|.*\b(stream|seed|global_batch)\b)")
"""Keys that must agree with the checkpoint's configuration, unless `--allow_change` names them."""

GLOBAL_BATCH = "model.global_batch"
SHAPES = re.compile(r"model\..*\b(size|lora)\b")

TAKEN = ("lr", "initial_lr", "betas", "weight_decay")

allowed: list[str] = []
"""Keys that may change, as `--allow_change` names them: complete, or some of their parts."""


@dataclass(frozen=True)
class Changes:
    """Lines of `key: then -> now`; `rates` are applied after the checkpoint is loaded; `refused` is an error, or ""."""

    told: list[str] = field(default_factory=list)
    rates: list[str] = field(default_factory=list)
    refused: str = ""


def changes(then: Path, now: Path, names: Sequence[str] = (), worlds: tuple[int, int] = (1, 1)) -> Changes:
    """Compares the resolved configurations in two files; no changes if either file is missing.

    Args:
        names: keys that may change.
        worlds: number of processes then and now, by which the global batch is computed.
    """
    if not (then.is_file() and now.is_file()):
        return Changes()
    earlier, later = _stored(then), _stored(now)
    before, after = dict(_flat(earlier)), dict(_flat(later))
    # a key that the earlier version did not have yet had the value that is now its default
    before |= {key: value for key, value in defaults_of(earlier).items() if key in after and key not in before}
    if GLOBAL_BATCH not in after:  # the configuration has only the batch per process
        for told, world in ((before, worlds[0]), (after, worlds[1])):
            told[GLOBAL_BATCH] = world * told.get("data.batch", 0) * told.get("trainer.accumulate_grad_batches", 1)
    found = {key: f"{key}: {before.get(key)} -> {after.get(key)}" for key in {**before, **after}}
    found = {k: line for k, line in found.items() if before.get(k) != after.get(k) and not WITHOUT_EFFECT.match(k)}
    rates = [line for key, line in found.items() if RATES.match(key)]
    other = {key: line for key, line in found.items() if not RATES.match(key)}
    shapes = [line for key, line in other.items() if SHAPES.match(key)]
    kept = [line for key, line in other.items() if KEPT.match(key) and not any(_named(key, name) for name in names)]
    refused = ""
    if shapes:
        refused = (
            f"the checkpoint is of another network ({'; '.join(shapes)}): use its size, or start a new run from its "
            "weights with --model.student.weights or --model.weights"
        )
    elif kept:
        refused = (
            f"the checkpoint was made with another configuration ({'; '.join(kept)}): use that one, or name the keys "
            f"that may change with --allow_change={','.join(line.partition(':')[0] for line in kept)}"
        )
    return Changes(list(found.values()), rates, refused)


def apply_rates(trainer: pl.Trainer) -> None:
    """Sets the configured rates, betas and decays on optimisers and schedules that a checkpoint has restored."""
    optimizers, schedules = _init_optimizers_and_lr_schedulers(trainer.lightning_module)
    for live, fresh in zip(trainer.optimizers, optimizers, strict=True):
        for group, told in zip(live.param_groups, fresh.param_groups, strict=True):
            group.update({k: told[k] for k in TAKEN if k in told and k in group})
    for ours, its in zip(trainer.strategy.lr_scheduler_configs, schedules, strict=True):
        schedule, new = cast(Any, ours.scheduler), cast(Any, its.scheduler)
        schedule.base_lrs = new.base_lrs
        if isinstance(schedule, LambdaLR):
            factors = [act(schedule.last_epoch) for act in schedule.lr_lambdas]
            schedule._last_lr = [base * factor for base, factor in zip(schedule.base_lrs, factors, strict=True)]
            for group, rate in zip(schedule.optimizer.param_groups, schedule._last_lr, strict=True):
                group["lr"] = rate


def _stored(path: Path) -> Any:
    """The configuration in a file, with paths relative to the run folder; older files have absolute ones."""
    config = plain_yaml.load_yaml(path.read_text(encoding="utf-8"))
    root = str((config.get("trainer") or {}).get("default_root_dir") or run_paths.RUN)
    return config if root.startswith(run_paths.RUN) else run_paths.stored_paths(config, Path(root).parent)


def _flat(node: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """Leaves with dotted keys as on the command line, without `init_args`."""
    if isinstance(node, dict) and node:
        for name, value in node.items():
            yield from _flat(value, key if name == "init_args" else f"{key}.{name}".lstrip("."))
    else:
        yield key, node


def _named(key: str, name: str) -> bool:
    return f".{name}." in f".{key}."
