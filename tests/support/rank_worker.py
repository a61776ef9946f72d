"""Starts `tests.support.steps` as several processes, as torchrun would."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.support.ports import free_port

ROOT = Path(__file__).parents[2]


@contextmanager
def ranks(folder: Path, world: int, *arguments: str) -> Iterator[list[subprocess.Popen[str]]]:
    """The processes; whatever is left of them at the end is killed."""
    port = free_port()
    shared = {
        **os.environ,
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "WORLD_SIZE": str(world),
        "LOCAL_WORLD_SIZE": str(world),
        "GROUP_RANK": "0",
        "TORCHELASTIC_RUN_ID": "test",
        "OMP_NUM_THREADS": "1",
        "CUDA_VISIBLE_DEVICES": "",
        "PYTHONWARNINGS": "ignore",
    }
    command = [sys.executable, "-m", "tests.support.steps", str(folder), "--world", str(world), *arguments]
    started = [
        subprocess.Popen(
            [*command, "--rank", str(rank)],
            env={**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)} if world > 1 else {**os.environ},
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(world)
    ]
    try:
        yield started
    finally:
        for process in started:
            process.kill()
            process.wait()


def wait_for(process: subprocess.Popen[str], line: str) -> None:
    """Reads what a process says up to that line."""
    assert process.stdout is not None
    told = []
    for said in process.stdout:
        told.append(said)
        if said.strip() == line:
            return
    raise AssertionError(f"ended without {line!r}:\n{''.join(told)}")
