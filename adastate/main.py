"""The command line: one door to all commands, which are listed in adastate/launch/commands.py."""

from __future__ import annotations

import os
import sys

from adastate.config.trusted import FLAG as TRUST
from adastate.config.trusted import VARIABLE as TRUSTED
from adastate.launch.commands import COMMANDS
from adastate.runtime import secrets, signals, threads
from adastate.runtime.foreign_words import command_for
from adastate.runtime.own_variables import misspelt_variables
from adastate.runtime.spelling import likeliest_word, meant


def main(argv: list[str] | None = None) -> None:
    """Runs a command; a reader that has seen enough, `| head` say, ends it quietly."""
    try:
        _run(argv)
        if argv is None:
            sys.stdout.flush()
    except BrokenPipeError:
        if argv is not None:
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # what is left would be told at the very end
        raise SystemExit(1) from None


def _run(argv: list[str] | None) -> None:
    of_the_process = argv is None
    argv = sys.argv[1:] if argv is None else argv
    if argv and argv[0] in ("--version", "-V", "-v", "version"):
        from adastate import __version__

        print(f"adastate {__version__}")
        return
    if argv[:1] == ["help"] and argv[1:2]:
        argv = [argv[1], "--help"]
    if not argv or argv[0] not in COMMANDS:
        lines = [f"  {name:<14}{command.about}" for name, command in COMMANDS.items()]
        asked = not argv or argv[0] in ("-h", "--help", "help")
        wrong = "" if asked else f"adastate: {_no_command(argv[0])}\n"
        print(f"{wrong}adastate COMMAND ...\n\n" + "\n".join(lines) + "\n\nadastate COMMAND --help tells more.")
        raise SystemExit(2 if wrong else 0)
    if TRUST in argv:
        os.environ[TRUSTED] = "1"
        argv = [word for word in argv if word != TRUST]
    if note := misspelt_variables(os.environ):
        print(f"adastate: note: {note}", file=sys.stderr)
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    threads.prepare()
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())  # for classes of the user's own
    command = COMMANDS[argv[0]]
    before = signals.listen() if command.stops else {}
    try:
        # importing takes seconds in which a signal may come
        with secrets.guarded():
            command.main(argv[1:])
        if of_the_process and before:
            signals.ignore()
        else:
            signals.set_handlers(before)
    except BrokenPipeError:
        raise
    except Exception as error:
        from adastate.config.mistakes import sentence

        told = sentence(error)
        if told is None:
            raise
        raise SystemExit(secrets.printable(secrets.redacted(f"adastate: {told}"))) from error


def _no_command(word: str) -> str:
    """What is wrong with a first word."""
    if word.lstrip("-") in COMMANDS:
        return f"a command has no dashes before it: adastate {word.lstrip('-')}"
    if word.startswith("-") and not likeliest_word(word, ("--version", "--help")):
        return f"{word!r} stands where the command has to: adastate generate {word} ..., say"
    if ours := command_for(word):
        return f"no command {word!r}; did you mean {ours!r}?"
    return f"no command {word!r}; {meant(word, (*COMMANDS, '--version', '--help'))}"


if __name__ == "__main__":
    main()
