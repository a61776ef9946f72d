"""Exceptions that are mistakes in what was asked for, as one sentence."""

from __future__ import annotations

import re
import traceback

OURS = ("adastate.", "datamodules.", "callbacks.")


REMEDIES = {
    "gradient clipping is not supported": "set gradient_clip_norm of the model instead",
    "gradient accumulation is not supported": "the stage accumulates to the global_batch of the model by itself",
    "No supported gpu backend": "torch finds no GPU here; leave trainer.accelerator at auto",
}
"""What to do about mistakes that the trainer tells in its own words."""


def sentence(error: BaseException | None) -> str | None:
    """The sentence of the mistake behind `error`, if it is one: jsonargparse wraps what a constructor raises.

    Mistakes are our exceptions, missing files, a ValueError that our own code raised, and what Lightning's trainer
    refuses of its arguments. All else is a bug, whose traceback is needed.
    """
    while error is not None:
        raised = _raised_in(error)
        if isinstance(error, FileNotFoundError) or type(error).__module__.startswith(OURS):
            return str(error)
        if isinstance(error, ValueError) and raised.startswith(OURS):
            return str(error)
        refused = type(error).__name__ == "MisconfigurationException"
        if refused or (isinstance(error, ValueError) and raised.startswith("lightning.pytorch.trainer.")):
            said = " ".join(str(error).split())[:400]
            return "; ".join([said.rstrip("."), *(do for part, do in REMEDIES.items() if part in said)])
        error = error.__cause__ or error.__context__
    return None


def _raised_in(error: BaseException) -> str:
    """Name of the module whose code raised it."""
    frames = list(traceback.walk_tb(error.__traceback__))
    return str(frames[-1][0].f_globals.get("__name__", "")) if frames else ""


def parser_sentence(told: str) -> str:
    """What a parser's error is about: the innermost key, and the value that did not fit there."""
    keys, values = re.findall(r'Parser key "([^"]+)"', told), re.findall(r"Given value: (.*)", told)
    if not keys:
        return " ".join(told.split())[:300]
    value = f" cannot be {values[-1][:80]}" if values else " is not what it takes"
    return f"{keys[-1]}{value}; `adastate fit --help` and docs/reference/configuration.md tell what it takes"
