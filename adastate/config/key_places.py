"""Where in a configuration a key stands that was looked for in another place, or under the word of another tool."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from adastate.config.classes import ABSENT, block_of, constructor_hints, constructor_parameters, described_class
from adastate.config.schema import LIGHTNING, PLAIN, VARIABLES
from adastate.models.size import Size
from adastate.runtime.spelling import likeliest_word, meant
from adastate.stream import StreamSpec

MOST = 3
"""Places that a sentence names."""

WORDS = {
    "batch": "batch_size bs",
    "workers": "num_workers n_workers",
    "lr": "learning_rate",
    "iterations": "epochs num_epochs steps num_steps max_iters n_iters",
    "devices": "gpus num_gpus n_gpus gpu",
    "num_nodes": "nodes",
    "dir": "output_dir out_dir run_dir log_dir out output",
    "ckpt_path": "resume resume_from checkpoint resume_from_checkpoint",
    "past_frames": "window window_size",
    "compiled": "compile",
    "checkpointing": "gradient_checkpointing activation_checkpointing",
    "callbacks": "callback",
    "logger": "wandb mlflow loggers",
    "compute_dtype": "dtype bf16 fp16",
    "gradient_clip_norm": "grad_clip clip_norm max_grad_norm",
}
"""Words of other tools, by the key that they mean."""


def near_key(key: str, known: Sequence[str], lightning: Mapping[str, Any] | None = None, before: str = "") -> str:
    """The remedy for a key that is not among `known`: the nearest of them, the place where it does stand, or all.

    Args:
        lightning: the configuration, whose model and data are looked through, too.
        before: what stands before a key on a command line, "--".
    """
    found = _places(key, lightning or {})
    if not found and likeliest_word(key, known, cutoff=0.75):
        return meant(key, known)
    for name in (name for name, words in WORDS.items() if key in words.split()):
        if name in known:
            return f"did you mean {name!r}?"
        found += _places(name, lightning or {})
    if found:
        shallow = sorted(found, key=lambda place: place.count("."))[:MOST]
        top = " at the top level" if key in VARIABLES and not before else ""
        return f"did you mean {' or '.join(f'{before}{place}' for place in shallow)}{top}?"
    return meant(key, known)


def key_place(key: str) -> str:
    """The place of a key, or of what it means, among variables and the trainer's arguments; empty if it has none."""
    names = [key, *(name for name, words in WORDS.items() if key in words.split())]
    return next((place for name in names for place in _places(name, {})), "")


def _places(key: str, lightning: Mapping[str, Any]) -> list[str]:
    """Dotted keys that end with it: those of the variables that lie highest, the trainer's, and those of the stage;
    these before variables that are many, one a stage."""
    if key in (*VARIABLES, *LIGHTNING):
        return [key]
    trainer = [f"trainer.{key}"] if key in constructor_parameters(described_class("lightning.pytorch.Trainer")) else []
    variables, stage = _highest(key, _of_variables()), _highest(key, _of_stage(lightning))
    return [*stage, *trainer, *variables] if len(variables) > MOST else [*variables, *trainer, *stage]


def _highest(key: str, places: Iterator[str]) -> list[str]:
    found = [place for place in places if re.fullmatch(rf"(student_|critic_)?{re.escape(key)}", place.split(".")[-1])]
    least = min((place.count(".") for place in found), default=0)
    return [place for place in found if place.count(".") == least]


def _of_variables() -> Iterator[str]:
    def below(node: Mapping[str, Any], path: str) -> Iterator[str]:
        for name, value in node.items():
            yield f"{path}{name}"
            if isinstance(value, dict):
                yield from below(value, f"{path}{name}.")

    yield from below(PLAIN, "")
    yield from (f"stream.{field.name}" for field in dataclasses.fields(StreamSpec))
    yield from (f"size.{field.name}" for field in dataclasses.fields(Size))


def _of_stage(lightning: Mapping[str, Any]) -> Iterator[str]:
    """Arguments of what data and model are made of, `init_args` left out, as a command line lets one."""

    def below(node: Any, hint: Any, path: str) -> Iterator[str]:
        block = block_of(hint)
        if isinstance(node, dict) and isinstance(node.get("class_path"), str):
            cls, within = described_class(node["class_path"]), node.get("init_args") or {}
            names, hints = constructor_parameters(cls), constructor_hints(cls)
        elif block is not None:
            within = node if isinstance(node, dict) else {}
            hints = constructor_hints(block)
            names = [field.name for field in dataclasses.fields(block)]
        else:
            return
        for name in names:
            yield f"{path}.{name}"
            yield from below(within.get(name), hints.get(name), f"{path}.{name}")

    for head in ("data", "model"):
        try:
            yield from below(lightning.get(head), None, head)
        except ABSENT:
            continue  # what is wrong there is told where it is checked
