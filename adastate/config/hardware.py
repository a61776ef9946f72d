"""What a configuration asks of the machine, as far as that is known before torch is imported."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

from adastate.config.conf_files import conf_path
from adastate.config.schema import ConfigError
from adastate.runtime.gpu_driver import why_none
from adastate.runtime.spelling import meant

ACCELERATORS = ("auto", "cpu", "gpu", "cuda", "mps", "tpu")
STRATEGIES = re.compile(
    r"auto|ddp\w*|fsdp|fsdp_cpu_offload|deepspeed\w*|xla\w*|single_xla|single_tpu|tpu\w*|single_device"
)
"""Names that Lightning's registry of strategies has; tests/config/test_hardware.py holds them against it."""


def check_hardware(value: Callable[[str], Any]) -> None:
    """Refuses devices, accelerators and strategies that there are none of.

    Args:
        value: of a key of the configuration, `trainer.devices` say; None where nothing is said.

    Raises:
        ConfigError: with what would do.
    """
    accelerator, strategy = value("trainer.accelerator"), value("trainer.strategy")
    if isinstance(accelerator, str):
        if accelerator.lower() not in ACCELERATORS:
            raise ConfigError(
                f"the trainer cannot have accelerator {accelerator!r}; {meant(accelerator.lower(), ACCELERATORS)}"
            )
        if accelerator.lower() in ("gpu", "cuda") and (why := why_none()):
            raise ConfigError(f"trainer.accelerator is {accelerator}, and {why}; leave it at auto")
        if accelerator.lower() == "mps" and sys.platform != "darwin":
            raise ConfigError("trainer.accelerator is mps, which is for Macs; leave it at auto")
        if accelerator.lower() == "tpu" and find_spec("torch_xla") is None:
            raise ConfigError("trainer.accelerator is tpu, and torch_xla is not installed; leave it at auto")
    if isinstance(strategy, str) and not STRATEGIES.fullmatch(strategy.lower()):
        ours = sorted(path.stem for path in conf_path("conf/strategy").glob("*.yaml"))
        file = strategy.lower() if strategy.lower() in ours else "NAME"
        raise ConfigError(
            f"the trainer has no strategy {strategy!r}; give --config conf/strategy/{file}.yaml"
            + ("" if file != "NAME" else f", NAME being one of {', '.join(ours)}")
        )
    for key in ("trainer.devices", "trainer.num_nodes"):
        _check_count(key, value(key))


def _check_count(key: str, given: Any) -> None:
    """Refuses no devices, and words for a number of them. -1 means all."""
    words = given.replace(" ", "") if isinstance(given, str) else None
    if words is not None and not re.fullmatch(r"auto|-1|\d+(,\d+)*,?", words):
        raise ConfigError(f"{key} cannot be {given!r}; it takes a number, a list of numbers, or auto")
    number = int(words) if words is not None and words.isdigit() else given
    least = -1 if key == "trainer.devices" else 1
    if isinstance(number, int) and (number == 0 or number < least):
        raise ConfigError(
            f"{key} is {number}; give at least 1" + (", or -1 for all that there are" if least < 0 else "")
        )
