"""One run in a folder: the second is told who has it, and what a dead one has left locks nothing."""

from __future__ import annotations

import errno
import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from adastate.runtime import folder_lock

pytest.importorskip("fcntl")

HOLD = """
import sys, time
from pathlib import Path
from adastate.runtime import folder_lock
folder_lock.acquire(Path(sys.argv[1]))
print("held", flush=True)
time.sleep(600)
"""


def test_the_second_run_is_told_who_has_the_folder_and_a_dead_one_has_it_no_longer(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None and other.stdout.readline() == "held\n"
        said = rf"in use by process {other.pid} on \S+ since \S+Z: wait for its end, or set RUN=another/folder"
        with pytest.raises(folder_lock.FolderInUse, match=said):
            folder_lock.acquire(tmp_path)
        with pytest.raises(folder_lock.FolderInUse, match=said):
            folder_lock.acquire(tmp_path)
        os.kill(other.pid, signal.SIGKILL)
        other.wait()
    assert folder_lock.acquire(tmp_path).startswith(f"process {other.pid} on ")
    assert json.loads((tmp_path / folder_lock.NAME).read_text())["pid"] == os.getpid()
    assert folder_lock.acquire(tmp_path) == "", "a process may take its own again"
    folder_lock.release(tmp_path)
    assert folder_lock.acquire(tmp_path) == "", "the last holder ended well"
    folder_lock.release(tmp_path)


def test_without_locks_the_one_that_is_written_there_is_looked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none(*_: object) -> None:
        raise OSError(errno.ENOLCK, "no locks available")

    monkeypatch.setattr(folder_lock.fcntl, "lockf", none)
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as other:
        told = {"host": socket.gethostname(), "pid": other.pid, "start": "2026-01-01T00:00:00Z"}
        (tmp_path / folder_lock.NAME).write_text(json.dumps(told))
        with pytest.raises(folder_lock.FolderInUse, match=f"in use by process {other.pid} on "):
            folder_lock.acquire(tmp_path)
        if (born := folder_lock._born(other.pid)) is not None:
            assert folder_lock._lives(json.dumps({**told, "born": born}).encode())
            assert not folder_lock._lives(json.dumps({**told, "born": "of an earlier process"}).encode())
    assert folder_lock.acquire(tmp_path).startswith(f"process {other.pid} on "), "it is gone"
    assert json.loads((tmp_path / folder_lock.NAME).read_text())["pid"] == os.getpid()
    folder_lock.release(tmp_path)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="runs are forked")
def test_a_child_holds_nothing_of_its_parents(tmp_path: Path) -> None:
    folder_lock.acquire(tmp_path)
    child = os.fork()
    if child == 0:
        try:
            folder_lock.acquire(tmp_path)
        except folder_lock.FolderInUse:
            os._exit(7)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
    folder_lock.release(tmp_path)
