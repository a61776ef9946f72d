"""Words of messages: what a word that is not there may have meant, and what an error says in a line."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable


def likeliest_word(word: object, known: Iterable[str], cutoff: float = 0.5) -> str:
    """The word of `known` that looks most like another, of `-p` the option that begins so; empty if none does."""
    if re.fullmatch("-[a-z]", str(word)):
        return next((option for option in known if option.startswith(f"-{word}")), "")
    return next(iter(difflib.get_close_matches(str(word), list(known), n=1, cutoff=cutoff)), "")


def meant(word: object, known: Iterable[str], otherwise: str = "") -> str:
    """The remedy for a word that is not among `known`: the nearest of them, or `otherwise`, or all."""
    known = list(known)
    near = likeliest_word(word, known)
    return f"did you mean {near!r}?" if near else otherwise or f"known are {', '.join(known)}"


def one_line(error: BaseException, most: int) -> str:
    """The first `most` characters of what an error says; its class where it says nothing."""
    return " ".join(str(error).split())[:most] or type(error).__name__
