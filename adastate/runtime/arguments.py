"""The parser of the commands: argparse, whose mistakes are one sentence, and whose help tells the defaults."""

from __future__ import annotations

import argparse
import re
from typing import Any, NoReturn

from adastate.runtime.spelling import meant


class _Help(argparse.HelpFormatter):
    def _get_help_string(self, action: argparse.Action) -> str:
        told = action.help or ""
        plain = action.option_strings and action.nargs != 0 and action.default not in (None, "", argparse.SUPPRESS)
        return told if not plain or "default" in told else f"{told} (default: %(default)s)"


class Arguments(argparse.ArgumentParser):
    """argparse.ArgumentParser that answers a mistake in one sentence, with the nearest word or the choices."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{"formatter_class": _Help, **kwargs})

    def error(self, message: str) -> NoReturn:
        """Ends with 2, as argparse does."""
        if found := re.match(r"argument (.+?): invalid choice: '?(.*?)'? \(choose from (.*)\)$", message, re.S):
            known = [word.strip(" '") for word in found[3].split(",")]
            message = f"{found[1]} cannot be {found[2]!r}; {meant(found[2], known)}"
        elif found := re.match(r"unrecognized arguments: (\S*)", message):
            known = [option for action in self._actions for option in action.option_strings]
            message = f"there is no option {found[1]!r}; {meant(found[1].partition('=')[0], known)}"
        self.exit(2, f"{self.prog}: {message} (`{self.prog} --help` tells what it takes)\n")
