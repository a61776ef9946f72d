"""Tiny fixtures. Everything runs on one thread of a CPU and draws the same numbers every time."""

from __future__ import annotations

import pytest
import torch

from adastate.net import DiT
from tests.tiny import NetStudent, random_net


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    torch.set_num_threads(1)  # before anything that a module's tests share is made


@pytest.fixture(autouse=True)
def _deterministic() -> None:
    torch.manual_seed(0)


@pytest.fixture
def net() -> DiT:
    return random_net()


@pytest.fixture
def student(net: DiT) -> NetStudent:
    return NetStudent(net)
