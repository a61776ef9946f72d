"""What a process asks of the C library and of OpenMP, for steps of many short operations on a CPU."""

from __future__ import annotations

import ctypes
import os

SPINS = "3000"
"""Turns of waiting, some tens of microseconds. With a thousand half of the gain is left, ten thousand add nothing."""

TRIM_THRESHOLD, TOP_PAD, MMAP_THRESHOLD = -1, -2, -3
"""Numbers of these parameters in glibc's malloc.h."""

CHOSEN = {TRIM_THRESHOLD: 2**29, TOP_PAD: 2**26, MMAP_THRESHOLD: 2**25}
"""Bytes. 2^25 is the most that glibc takes for the last; larger blocks come from the kernel and go back there."""

VARIABLES = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_TOP_PAD_", "MALLOC_MMAP_THRESHOLD_", "GLIBC_TUNABLES")

MOST_PER_CORE = 16
"""Threads that a run may ask for; a hundred thousand of them bring a machine to a standstill."""


class ThreadsError(ValueError):
    """A number of threads that cannot be."""


def prepare() -> None:
    """Both of the following, before torch is imported. Neither changes a number."""
    wait_briefly()
    keep_freed_memory()


def wait_briefly() -> None:
    """Threads of OpenMP look out for the next operation for a moment before they go to sleep.

    To wake one takes as long as a short operation; to wait by turning for long takes the core from other processes,
    which is why OMP_WAIT_POLICY is passive here. It holds for GNU's OpenMP, torch's on Linux, which reads it as it is
    loaded. A count that is set already stays, and so does an active policy.
    """
    if os.environ.get("OMP_WAIT_POLICY", "").lower() != "active":
        os.environ.setdefault("GOMP_SPINCOUNT", SPINS)


def use_threads(count: int | None) -> None:
    """Operations are shared by so many threads, unless OMP_NUM_THREADS has said it already; None leaves torch's choice.

    Raises:
        ThreadsError: a count below 1.
    """
    check_threads(count)
    if count is None or "OMP_NUM_THREADS" in os.environ:
        return
    import torch

    torch.set_num_threads(count)


def check_threads(count: int | None) -> None:
    """Raises ThreadsError for a count below 1, or far above the number of cores."""
    cores = os.cpu_count() or 1
    if count is not None and count > MOST_PER_CORE * cores:
        raise ThreadsError(f"run.threads is {count} and this machine has {cores} cores; null leaves it to torch")
    if count is not None and count < 1:
        raise ThreadsError(f"run.threads is {count}; at least one thread works, null leaves the number to torch")


def keep_freed_memory() -> bool:
    """Keeps up to half a gigabyte of freed memory in this process; whether that was possible.

    Otherwise glibc hands the graph of a training step back to the kernel, and the kernel clears every page of it again
    in the next step. Whoever has set one of `VARIABLES` has chosen already; other C libraries, and allocators that
    stand in for theirs, take no notice.
    """
    if any(name in os.environ for name in VARIABLES):
        return False
    try:
        set_parameter = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # no glibc
        return False
    return all(set_parameter(parameter, size) == 1 for parameter, size in CHOSEN.items())
