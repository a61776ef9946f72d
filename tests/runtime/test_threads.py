"""Freed memory stays with the process and threads wait for a moment, unless their user has chosen otherwise."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest

from adastate.runtime.threads import SPINS, VARIABLES, ThreadsError, use_threads, wait_briefly

SCRIPT = """
import resource, torch
from adastate.runtime.threads import keep_freed_memory
print(keep_freed_memory())
torch.set_num_threads(1)
def step():
    kept = [torch.ones(2**18) for _ in range(40)]  # 40 MB in blocks of 1 MB, given back at once
for _ in range(3):
    step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
step()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(**chosen: str) -> tuple[str, int]:
    """(what keep_freed_memory said, pages that the fourth of equal steps had to be given)."""
    clean = {k: v for k, v in os.environ.items() if k not in VARIABLES}
    told, count = subprocess.run(
        [sys.executable, "-c", SCRIPT], env={**clean, **chosen}, capture_output=True, text=True, check=True
    ).stdout.split()
    return told, int(count)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="mallopt is glibc's")
def test_a_step_takes_the_pages_of_the_step_before_it() -> None:
    told, count = faults()
    assert told == "True" and count < 100


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="malloc's variables are glibc's")
@pytest.mark.slow
def test_who_has_chosen_is_left_alone() -> None:
    told, count = faults(MALLOC_MMAP_THRESHOLD_="65536")  # every block from the kernel, and back
    assert told == "False" and count > 100


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, SPINS),
        ({"OMP_WAIT_POLICY": "passive"}, SPINS),
        ({"OMP_WAIT_POLICY": "ACTIVE"}, None),
        ({"GOMP_SPINCOUNT": "7"}, "7"),
    ],
)
def test_how_long_threads_wait(given: dict[str, str], expected: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT"):
        monkeypatch.delenv(name, raising=False)
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    wait_briefly()
    assert os.environ.get("GOMP_SPINCOUNT") == expected


@pytest.mark.parametrize(
    ("asked", "given", "expected"), [(3, {}, [3]), (None, {}, []), (3, {"OMP_NUM_THREADS": "2"}, [])]
)
def test_threads_are_those_of_the_config_unless_the_environment_has_said_it(
    asked: int | None, given: dict[str, str], expected: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    told: list[int] = []
    monkeypatch.setattr(torch, "set_num_threads", told.append)
    use_threads(asked)
    assert told == expected


def test_no_thread_at_all_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    with pytest.raises(ThreadsError, match=r"run\.threads is 0"):
        use_threads(0)


def test_it_is_asked_for_before_torch_comes() -> None:
    """GNU's OpenMP reads it when it is loaded, and later never."""
    script = "import sys; import adastate.main; print('torch' in sys.modules)"
    told = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    assert told.split() == ["False"]
