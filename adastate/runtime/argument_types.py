"""Types of options that say what is wrong with a value before anything is imported for it."""

from __future__ import annotations

import math
import re
from argparse import ArgumentTypeError
from collections.abc import Callable
from pathlib import Path

from adastate.runtime.arguments import from_home

DEVICE = re.compile(r"cpu|mps|cuda(:\d+)?")


def whole(least: int) -> Callable[[str], int]:
    """A whole number that is not below `least`."""

    def read(text: str) -> int:
        try:
            number = int(text)
        except ValueError:
            raise ArgumentTypeError(f"{text!r} is no whole number{_as_number(text, True)}") from None
        if number < least:
            raise ArgumentTypeError(f"{number} is too small; give at least {least}")
        return number

    return read


def above_zero(text: str) -> float:
    """A number above 0, and not without end."""
    try:
        number = float(text)
    except ValueError:
        raise ArgumentTypeError(f"{text!r} is no number{_as_number(text)}") from None
    if not 0 < number < math.inf:
        raise ArgumentTypeError(f"{text} will not do; give a number above 0")
    return number


def _as_number(text: str, whole_alone: bool = False) -> str:
    """How a number with a unit, a comma or minutes is written; empty where none shows."""
    if clock := re.fullmatch(r"(\d+):([0-5]\d)", text):
        return f": write {60 * int(clock[1]) + int(clock[2])}"
    plain = re.sub(r"(?<=\d),(?=\d{3}(\D|$))", "", text).replace(",", ".")
    found = re.fullmatch(r"(\d+(?:\.\d+)?(?:e\d)?)\s*[A-Za-z]*", plain)
    if found is None or (whole_alone and not float(found[1]).is_integer()):
        return ""
    return f": write {float(found[1]):.12g}"


def prompt_file(text: str) -> Path:
    """A file of prompts that is there."""
    if from_home(text).is_dir():
        raise ArgumentTypeError(f"{text} is a folder; give a text file with one prompt per line")
    return _there(text, "file of prompts", "give a text file with one prompt per line")


def there(what: str, remedy: str) -> Callable[[str], Path]:
    """A file or folder that is there; `what` it is, and what to do where it is not."""

    def read(text: str) -> Path:
        return _there(text, what, remedy)

    return read


def _there(text: str, what: str, remedy: str) -> Path:
    path = from_home(text)
    if not path.exists():
        raise ArgumentTypeError(f"there is no {what} {text}: {remedy}")
    return path


def device(text: str) -> str:
    """A device's name as torch takes it."""
    if not DEVICE.fullmatch(text):
        remedy = "say cuda" if text in ("gpu", "GPU", "nvidia", "CUDA") else "give cpu, cuda, or cuda:1 for the second"
        raise ArgumentTypeError(f"there is no device {text!r}; {remedy}")
    return text
