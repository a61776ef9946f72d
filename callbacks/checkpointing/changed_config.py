"""What a run that goes on has been told otherwise than its checkpoint was: printed, applied, or refused.

A checkpoint brings its optimisers' rates with it, and would have them in force whatever the command line says; and a
run that goes on with another stream, seed, batch or data is no continuation of anything.
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
"""What a continuation has to share with what it continues, unless the change is named."""

GLOBAL_BATCH = "model.global_batch"
SHAPES = re.compile(r"model\..*\b(size|lora)\b")

TAKEN = ("lr", "initial_lr", "betas", "weight_decay")

allowed: list[str] = []
"""Keys that may change, as `--allow_change` names them: whole, or some of their words."""


@dataclass(frozen=True)
class Changes:
    """Lines of `key: then -> now`; `rates` are taken over after the checkpoint is loaded, `refused` is a sentence."""

    told: list[str] = field(default_factory=list)
    rates: list[str] = field(default_factory=list)
    refused: str = ""


def changes(then: Path, now: Path, names: Sequence[str] = (), worlds: tuple[int, int] = (1, 1)) -> Changes:
    """Compares the resolved configurations of two files; nothing where one is missing.

    Args:
        names: keys that may change.
        worlds: processes then and now: they share a batch.
    """
    if not (then.is_file() and now.is_file()):
        return Changes()
    earlier, later = _stored(then), _stored(now)
    before, after = dict(_flat(earlier)), dict(_flat(later))
    # what the earlier version did not know yet was then as the default has it now
    before |= {key: value for key, value in defaults_of(earlier).items() if key in after and key not in before}
    if GLOBAL_BATCH not in after:  # each process's is all that is told
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
    """Gives optimisers and schedules, which a checkpoint has set, the rates, betas and decays of the configuration."""
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
    """What a file holds, with the paths of the run folder as they are stored; older files name where it lay."""
    config = plain_yaml.load_yaml(path.read_text(encoding="utf-8"))
    root = str((config.get("trainer") or {}).get("default_root_dir") or run_paths.RUN)
    return config if root.startswith(run_paths.RUN) else run_paths.stored_paths(config, Path(root).parent)


def _flat(node: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """Leaves by dotted keys, as a command line has them: without `init_args`."""
    if isinstance(node, dict) and node:
        for name, value in node.items():
            yield from _flat(value, key if name == "init_args" else f"{key}.{name}".lstrip("."))
    else:
        yield key, node


def _named(key: str, name: str) -> bool:
    return f".{name}." in f".{key}."
