"""Signals that ask a run to stop: noted when they come, obeyed at the end of a step. And going back into SLURM's queue.

Only the standard library, because it listens before torch is imported, which takes seconds.
"""

from __future__ import annotations

import os
import signal
import subprocess
import threading
from collections.abc import Callable, Iterable, Mapping
from types import FrameType
from typing import Any

AGAIN = 75
"""Exit code of a run that was asked to stop and can go on from a checkpoint: EX_TEMPFAIL of sysexits.h."""

ENDED = 76
"""Exit code of a run that had come to its end by the time it could obey: nothing of it is left to do."""

SIGNALS = ("SIGUSR1", "SIGTERM", "SIGINT", "SIGHUP")
"""What SLURM sends before the walltime ends (as conf/slurm.sh asks it to), whoever else wants a process to stop, and
Ctrl-C and a terminal that goes away."""

UNHEARD = frozenset(
    s.name for s in signal.Signals if s.name in ("SIGINT", "SIGHUP") and signal.getsignal(s) == signal.SIG_IGN
)
"""Ignored when this process began, as nohup and a shell's `&` have it: they stay so."""

_heard: list[str] = []


def listen(names: Iterable[str] = SIGNALS, tell: Callable[[int], object] | None = None) -> dict[str, Any]:
    """From now on these signals are noted instead of ending the process; returns the handlers that were there.

    A second SIGINT ends it at once, whatever it is doing. One that it was started to ignore (UNHEARD) it ignores still.
    After a SIGHUP what it says to a terminal, which is gone, is dropped.

    Args:
        names: such as "SIGUSR1"; those that the platform has not are left out.
        tell: is called with the number of what to send to processes of one's own: the signal's, SIGTERM for the first
            SIGINT, which a terminal has sent to them as well, and SIGKILL for the second.

    Raises:
        ValueError: a name of no signal.
    """
    terminals = [fd for fd in (1, 2) if os.isatty(fd)]

    def hear(number: int, frame: FrameType | None) -> None:
        name, passed = signal.Signals(number).name, number
        _heard.append(name)
        again = name == "SIGINT" and _heard.count(name) > 1
        if name == "SIGINT":
            passed = signal.SIGKILL if again else signal.SIGTERM
            if tell is None or again:
                signal.signal(number, signal.SIG_DFL)  # what comes next needs no Python, which may be in native code
        if tell is not None:
            tell(passed)
        if again:
            signal.raise_signal(number)
        if name == "SIGHUP":
            _drop_output([fd for fd in terminals if not os.isatty(fd)])

    return set_handlers({name: hear for name in names if name not in UNHEARD})


def _drop_output(files: Iterable[int]) -> None:
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for file in files:
        os.dup2(nowhere, file)
    os.close(nowhere)


def set_handlers(handlers: Mapping[str, Any]) -> dict[str, Any]:
    """Sets handlers by name and returns those that were there; only the main thread may, elsewhere nothing happens."""
    if threading.current_thread() is not threading.main_thread():
        return {}
    return {name: signal.signal(_number(name), handler) for name, handler in handlers.items() if _exists(name)}


def ignore(names: Iterable[str] = SIGNALS) -> None:
    """For a process that is on its way out and shall keep its exit code; a second SIGINT still ends it at once."""
    set_handlers({n: signal.SIG_DFL if n == "SIGINT" else signal.SIG_IGN for n in names if n not in UNHEARD})


def unlisten() -> None:
    """These signals do again what they do to any process of Python's."""
    set_handlers(
        {n: signal.default_int_handler if n == "SIGINT" else signal.SIG_DFL for n in SIGNALS if n not in UNHEARD}
    )


def heard() -> str:
    """Name of the signal that came first, or ""."""
    return _heard[0] if _heard else ""


def note_signal(name: str) -> None:
    """As if that signal had come: another rank heard it."""
    _heard.append(name)


def forget() -> None:
    _heard.clear()


def stopped(code: int) -> bool:
    """Whether a process with this exit code stopped because it was asked to, and can be started again.

    Python's and the shell's ways of telling that a signal ended it count, too: then it came before anyone listened.
    """
    numbers = [_number(name) for name in SIGNALS if _exists(name)]
    return code == AGAIN or code in [-n for n in numbers] or code in [128 + n for n in numbers]


def requeue() -> str:
    """Puts the SLURM job of this process back into the queue; says what came of it, "" outside a batch job.

    A job that was cancelled or is requeued already is left alone, and so is one without --requeue. One whose time is
    over has SLURM's KillWait to save in.
    """
    job = os.environ.get("SLURM_JOB_ID")
    if job is None:
        return ""
    try:
        shown = subprocess.run(["scontrol", "show", "job", "-o", job], capture_output=True, text=True, timeout=30)
        facts = dict(word.split("=", 1) for word in shown.stdout.split() if "=" in word)
        if facts.get("BatchFlag") == "0":
            return ""
        over = facts.get("JobState") == "COMPLETING" and facts.get("Reason") == "TimeLimit"
        if facts.get("JobState") != "RUNNING" and not over:
            return f"job {job} is {facts.get('JobState', 'unknown').lower()} and left alone"
        if facts.get("Requeue") != "1":
            return f"job {job} was submitted without --requeue"
        done = subprocess.run(["scontrol", "requeue", job], capture_output=True, text=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"job {job} could not be requeued ({error})"
    if done.returncode:
        return f"job {job} could not be requeued ({' '.join(done.stderr.split())})"
    return f"job {job} requeued"


def _number(name: str) -> int:
    try:
        return int(signal.Signals[name])
    except KeyError:
        raise ValueError(f"{name!r} is not a signal; SIGUSR1 and SIGTERM are usual") from None


def _exists(name: str) -> bool:
    return os.name == "posix" or name in signal.Signals.__members__
