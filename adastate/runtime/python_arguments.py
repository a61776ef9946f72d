"""Arguments of calls from Python: what is of a wrong kind is told in one sentence, as on a command line."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any


def whole_number(name: str, value: Any, least: int | None = None) -> int:
    """The value as an int; NumPy's whole numbers are some, too.

    Raises:
        ValueError: it is none, or below `least`.
    """
    try:
        number = None if isinstance(value, bool) else operator.index(value)
    except TypeError:
        number = None
    if number is None:
        raise ValueError(f"{name} is {value!r}: give a whole number")
    if least is not None and number < least:
        raise ValueError(f"{name} is {number}: give at least {least}")
    return number


def prompt_texts(prompts: Any, blank: bool = False) -> list[str]:
    """The prompts of one text, or of a list of texts.

    Args:
        blank: let prompts without a word pass.

    Raises:
        ValueError: something else, or no prompt.
    """
    told = [prompts] if isinstance(prompts, str) else prompts
    if not isinstance(told, Sequence) or isinstance(told, bytes):
        raise ValueError(f"a prompt is a text, or a list of texts, and not {prompts!r}")
    for prompt in told:
        if not isinstance(prompt, str):
            raise ValueError(f"a prompt is a text, and not {prompt!r}")
        if not blank and not prompt.strip():
            raise ValueError(f"a prompt is a text, and not {prompt!r}: describe what to show")
    return list(told)
