"""A stop that comes while a process is being started reaches it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import pytest

from adastate.launch import process_group
from adastate.runtime import signals

WAITS = "import signal, sys, time; signal.signal(signal.SIGTERM, lambda *a: sys.exit(75)); print(1); time.sleep(60)"
ASKED = "SIGTERM" if "SIGINT" in signals.UNHEARD else "SIGINT"


def several() -> int:
    try:
        process_group.processes(["trajectories"], 2)
    except SystemExit as stop:
        return int(str(stop.code))
    return 0


@pytest.mark.parametrize("start", [lambda: process_group.run_command(["fit"]), several])
def test_it_is_asked_to_stop(start: Callable[[], int], monkeypatch: pytest.MonkeyPatch) -> None:
    class Slow(subprocess.Popen[bytes]):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__([sys.executable, "-uc", WAITS], stdout=subprocess.PIPE)
            assert self.stdout is not None and self.stdout.readline()  # it listens
            if not signals.heard():
                os.kill(os.getpid(), getattr(signal, ASKED))

    monkeypatch.delenv(process_group.LOGS, raising=False)
    monkeypatch.setattr(subprocess, "Popen", Slow)
    before, began = signal.getsignal(getattr(signal, ASKED)), time.monotonic()
    signal.signal(getattr(signal, ASKED), lambda *told: None)  # a signal that nobody listens for would end the tests
    try:
        assert start() == signals.AGAIN
    finally:
        signal.signal(getattr(signal, ASKED), before)
        signals.forget()
    assert time.monotonic() - began < 50
