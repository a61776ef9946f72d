"""Signals are noted, a second SIGINT ends the process at once, and who was told to ignore them does so."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable

import pytest

from adastate.runtime import signals

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are forked")


@pytest.fixture(autouse=True)
def _heard(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the tests were started by."""
    monkeypatch.setattr(signals, "UNHEARD", frozenset())


def ended(does: Callable[[], object]) -> int:
    """How a process of its own ends that does this: its exit code, or minus the signal that ended it."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            signals.forget()
            does()
            code = 0
        except SystemExit as stop:
            code = int(stop.code or 0)
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@pytest.mark.parametrize("name", signals.SIGNALS)
def test_one_is_noted_and_ends_nothing(name: str) -> None:
    def does() -> None:
        signals.listen()
        signal.raise_signal(signal.Signals[name])
        raise SystemExit(42 if signals.heard() == name else 1)

    assert ended(does) == 42


@pytest.mark.parametrize("between", [(), ("SIGTERM", "SIGUSR1", "SIGHUP")])
def test_a_second_sigint_ends_it_at_once(between: tuple[str, ...]) -> None:
    def does() -> None:
        signals.listen()
        for name in ("SIGINT", *between):
            signal.raise_signal(signal.Signals[name])
        signals.listen()  # as the trainer does, after main
        signal.raise_signal(signal.SIGINT)
        time.sleep(60)

    assert ended(does) == -signal.SIGINT


def test_a_second_sigint_ends_what_stands_in_native_code() -> None:
    """Where no handler of Python's is called: the system has to end it by itself."""

    def does() -> None:
        signals.listen()
        signal.raise_signal(signal.SIGINT)
        raise SystemExit(42 if signal.getsignal(signal.SIGINT) == signal.SIG_DFL else 1)

    assert ended(does) == 42


def test_what_is_told_to_processes_of_its_own() -> None:
    """A terminal sends SIGINT to all of them: passed on it would be their second."""

    def does() -> None:
        told = list[int]()
        signals.listen(tell=told.append)
        for number in (signal.SIGUSR1, signal.SIGHUP, signal.SIGINT):
            signal.raise_signal(number)
        assert told == [signal.SIGUSR1, signal.SIGHUP, signal.SIGTERM]
        read, write = os.pipe()
        signals.listen(tell=lambda number: os.write(write, bytes([number])))
        if os.fork() == 0:
            os.kill(os.getpid(), signal.SIGINT)
        os.wait()
        os.set_blocking(read, False)
        raise SystemExit(42 if os.read(read, 9) == bytes([signal.SIGKILL]) else 1)

    assert ended(does) == 42


@pytest.mark.parametrize("name", ["SIGINT", "SIGHUP"])
def test_nohup_holds(name: str) -> None:
    code = (
        "import os, signal; from adastate.runtime import signals;"
        "signals.listen(); signals.unlisten(); signals.listen();"
        f"os.kill(os.getpid(), signal.{name}); os.kill(os.getpid(), signal.{name}); signals.ignore();"
        f"assert signal.getsignal(signal.{name}) == signal.SIG_IGN and not signals.heard(); print('lives')"
    )
    number = signal.Signals[name]
    done = subprocess.run(
        [sys.executable, "-c", code],
        preexec_fn=lambda: signal.signal(number, signal.SIG_IGN),
        capture_output=True,
        text=True,
    )
    assert done.stdout == "lives\n", done.stderr


def test_what_it_says_to_a_terminal_that_is_gone_ends_nothing() -> None:
    def does() -> None:
        theirs, ours = os.openpty()
        os.dup2(ours, 1)
        signals.listen()
        os.close(theirs)
        signal.raise_signal(signal.SIGHUP)
        os.write(1, b"what nobody sees")
        raise SystemExit(42)

    assert ended(does) == 42


def test_which_exit_codes_mean_that_a_run_was_asked_to_stop() -> None:
    for name in signals.SIGNALS:
        number = int(signal.Signals[name])
        assert signals.stopped(-number) and signals.stopped(128 + number)
