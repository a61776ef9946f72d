"""The parser of the commands: argparse, whose mistakes are one sentence, and whose help tells the defaults."""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, NoReturn

from adastate.runtime.foreign_words import answer
from adastate.runtime.secrets import is_secret
from adastate.runtime.spelling import likeliest_option, likeliest_word, meant

TAKES = {"int": "a whole number", "float": "a number"}
"""What fits an option of a plain type."""

OTHERS = {
    "--sequence-parallel": "ranks share a sample in `adastate fit`, `generate` and `live`: make the videos with "
    "`adastate generate --sequence-parallel N`"
}
"""Options that only other commands take, and where they are."""


class _Help(argparse.HelpFormatter):
    def _get_help_string(self, action: argparse.Action) -> str:
        told = action.help or ""
        plain = action.option_strings and action.nargs != 0 and action.default not in (None, "", argparse.SUPPRESS)
        return told if not plain or "default" in told else f"{told} (default: %(default)s)"


class Arguments(argparse.ArgumentParser):
    """argparse.ArgumentParser that answers a mistake in one sentence, with the nearest word or the choices.

    Options are written out: `--see` is none where there is `--seed`. Nothing may be left empty, as a variable of the
    shell that is not set leaves it. A path may begin with ~, which the shell leaves alone in `--out=~/videos`.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{"formatter_class": _Help, "allow_abbrev": False, **kwargs})

    def add_argument(self, *names: str, **kwargs: Any) -> argparse.Action:  # type: ignore[override]
        """As argparse's, but a path below ~ is one below the home folder."""
        if kwargs.get("type") is Path:
            kwargs["type"] = from_home
        return super().add_argument(*names, **kwargs)

    def parse_known_args(self, args: Sequence[str] | None = None, namespace: Any = None) -> Any:  # type: ignore[override]
        """As argparse's, after a look for words that are empty."""
        words = sys.argv[1:] if args is None else list(args)
        for before, word in pairwise(("", *words)):
            option, equals, value = word.partition("=") if word.startswith("-") else ("", "", word)
            if option and (not equals or value.strip() or option not in self.options):
                continue
            if not value.strip() and (option or not before.startswith("-") or before in self.options):
                self.error(f"{self._named(option or before)} is empty: give a value, or leave it out")
        self._words = words
        return super().parse_known_args(words, namespace)

    def _named(self, option: str) -> str:
        return self._shown(option) if option in self.options else "a word"

    @staticmethod
    def _shown(option: str) -> str:
        """An option in a sentence; quoted if the word after it would be hidden as a secret."""
        return repr(option) if is_secret(option) else option

    @property
    def options(self) -> list[str]:
        """The names of all options."""
        return [option for action in self._actions for option in action.option_strings]

    def _options_here(self) -> list[str]:
        """The options of what was asked for: those of a verb, `adastate weights push`, where one was."""
        verbs = next((a.choices for a in self._actions if isinstance(a, argparse._SubParsersAction)), {})
        chosen = next((verbs[word] for word in getattr(self, "_words", ()) if word in verbs), None)
        return self.options if chosen is None else chosen._options_here()

    def _misspelt(self, wanted: str) -> str:
        """The word that was written for an option that has to be there; empty if none looks like it."""
        words = [word.partition("=")[0] for word in getattr(self, "_words", ()) if word.startswith("--")]
        return likeliest_word(wanted, [word for word in words if word not in self.options], cutoff=0.7)

    def error(self, message: str) -> NoReturn:
        """Ends with 2, as argparse does; the exception says the sentence."""
        told = f"{self.prog}: {self._told(message)} (`{self.prog} --help` lists what it accepts)"
        self._print_message(f"{told}\n", sys.stderr)
        ended = SystemExit(told)
        ended.code = 2
        raise ended

    def _told(self, message: str) -> str:
        """What argparse says, in our words."""
        if found := re.match(r"argument (.+?): invalid choice: '?(.*?)'? \(choose from (.*)\)$", message, re.S):
            known = [word.strip(" '") for word in found[3].split(",")]
            return f"{found[1]} cannot be {found[2]!r}; {meant(found[2], known, cutoff=0.6)}"
        if found := re.match(r"unrecognized arguments: (\S*)", message):
            if not found[1].startswith("-"):
                several = next((a.option_strings[0] for a in self._actions if a.nargs == "+"), "")
                remedy = (
                    f"values follow their options, {several} {found[1]}"
                    if several
                    else "put text with spaces in quotes"
                )
                return f"it takes no {found[1]!r} here; {remedy}"
            if elsewhere := OTHERS.get(found[1].partition("=")[0]):
                return f"there is no option {found[1]!r} here; {elsewhere}"
            options = self._options_here()
            if remedy := answer(found[1], options):
                return f"there is no option {found[1].partition('=')[0]!r}; {remedy}"
            near = likeliest_option(found[1].partition("=")[0], options)
            remedy = f"did you mean {near!r}?" if near else f"known are {', '.join(options)}"
            return f"there is no option {found[1]!r}; {remedy}"
        if found := re.match(r"the following arguments are required: (.*)", message):
            for wanted in found[1].split(", "):
                if wanted.startswith("--") and (word := self._misspelt(wanted)):
                    return f"there is no option {word!r}; did you mean {wanted!r}?"
        if (found := re.match(r"argument (.+?): invalid (\w+) value: (.*)$", message, re.S)) and found[2] in TAKES:
            return f"{found[1]} cannot be {found[3]}; it takes {TAKES[found[2]]}"
        if found := re.match(r"argument (.+?): (expected .*)$", message, re.S):
            return f"{self._shown(found[1])} has nothing after it: {found[2]}"
        if found := re.match(r"argument (.+?): ignored explicit argument (.*)$", message, re.S):
            return f"{found[1]} takes no value: leave out ={found[2].strip(chr(39))}"
        return re.sub(r"^argument (\S+): ", r"\1: ", message)


def from_home(text: str) -> Path:
    """A path, where ~ at its beginning is the home folder."""
    return Path(os.path.expanduser(text))
