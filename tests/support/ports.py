"""Ports for processes that tests start."""

from __future__ import annotations

import os
import random
import socket
from collections import deque

FIRST, LAST = 10_000, 32_000
"""Below those that the system gives to outgoing connections (ip_local_port_range), which would take one in between."""

_dice = random.Random(os.getpid())
_mine: deque[socket.socket] = deque(maxlen=64)


def free_port() -> int:
    """One that nothing listens at, and that no other process of tests draws while this one lives (and draws few)."""
    while True:
        port, mark = _dice.randint(FIRST, LAST), socket.socket(socket.AF_UNIX)
        try:
            mark.bind(f"\0adastate-tests-{port}")  # a name without a file, which ends with its holder
            with socket.socket() as probe:
                probe.bind(("127.0.0.1", port))
        except OSError:
            mark.close()
            continue
        _mine.append(mark)
        return port
