"""Tiny fixtures. Everything runs on one thread of a CPU and draws the same numbers every time."""

from __future__ import annotations

import gc
import os
import re
from collections.abc import Iterator

import pytest
import torch

from tests.support import shapes

# the make that runs the tests tells the makes that tests run of its options, and of the variables given to it
for name in ("MAKELEVEL", "MFLAGS", *re.findall(r"(\w+)=", os.environ.get("MAKEFLAGS", "")), "MAKEFLAGS"):
    os.environ.pop(name, None)
shapes.install()  # before anything of ours is imported

from adastate.models.wan import DiT  # noqa: E402
from tests.support.tiny import NetStudent, random_net  # noqa: E402

LONG = (
    "zero", "slurm", "stages_sharded", "lora", "resume_command", "preempt", "disk", "heartbeat", "commands",
    "write_trajectories", "conf", "plan_memory", "law11", "report", "safe", "pipeline", "checkpoints", "generate",
    "make_shards", "engine", "sharded_checkpoint", "resume", "checkpoints_of_runs", "wan_encoders", "measures",
    "mistakes", "flight_pose", "extending", "benchmarks",
)  # fmt: skip
"""Files that take long, the longest first."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Long files come first, so that all processes of pytest-xdist end at about the same time."""
    place = {f"test_{name}": i for i, name in enumerate(LONG)}
    items.sort(key=lambda item: place.get(item.path.stem, len(LONG)))


def pytest_collection_finish() -> None:
    """What has been imported stays: from here on the collector of garbage passes it over."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    torch.set_num_threads(1)  # before anything that a module's tests share is made


@pytest.fixture(autouse=True)
def _deterministic() -> Iterator[None]:
    torch.manual_seed(0)
    yield
    left_off = not torch.is_grad_enabled()
    torch.set_grad_enabled(True)
    assert not left_off, "gradients were left switched off, which the tests after this one would suffer from"


@pytest.fixture
def net() -> DiT:
    return random_net()


@pytest.fixture
def student(net: DiT) -> NetStudent:
    return NetStudent(net)
