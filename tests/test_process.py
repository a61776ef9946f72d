"""Freed memory stays with the process and threads wait for a moment, unless their user has chosen otherwise."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest

from adastate.process import SPINS, VARIABLES, keep_freed_memory, wait_briefly

SCRIPT = """
import resource, sys, torch
from adastate.process import keep_freed_memory
print(keep_freed_memory() if sys.argv[1] == "keep" else None)
torch.set_num_threads(1)
def step():
    kept = [torch.ones(2**18) for _ in range(40)]  # 40 MB in blocks of 1 MB, given back at once
for _ in range(3):
    step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
step()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(how: str) -> tuple[str, int]:
    """(what keep_freed_memory said, pages that the fourth of equal steps had to be given)."""
    clean = {k: v for k, v in os.environ.items() if k not in VARIABLES}
    told, count = subprocess.run(
        [sys.executable, "-c", SCRIPT, how], env=clean, capture_output=True, text=True, check=True
    ).stdout.split()
    return told, int(count)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="mallopt is glibc's")
def test_a_step_takes_the_pages_of_the_step_before_it() -> None:
    told, count = faults("keep")
    assert told == "True"
    assert count < 100 < faults("leave")[1]


def test_who_has_chosen_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MALLOC_TRIM_THRESHOLD_", "1000")
    assert not keep_freed_memory()


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


def test_it_is_asked_for_before_torch_comes() -> None:
    """GNU's OpenMP reads it when it is loaded, and later never."""
    script = "import sys; import adastate.main; print('torch' in sys.modules)"
    told = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    assert told.split() == ["False"]
