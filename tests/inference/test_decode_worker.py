"""Work beside the main work: in order, never far behind, and heard when it fails."""

from __future__ import annotations

import threading
from typing import Any

import pytest
import torch

from adastate.inference.decode_worker import DecodeWorker
from adastate.types import Chunk

CPU = torch.device("cpu")


def chunk(i: int) -> Chunk:
    return Chunk(i, i, torch.zeros(1, 1, 1, 1, 1), None, 1)


@pytest.mark.parametrize("overlap", [False, True])
def test_work_is_done_in_order_and_to_the_end(overlap: bool) -> None:
    done, main = [], threading.main_thread()
    with DecodeWorker(CPU, overlap) as aside:
        assert aside.overlaps is overlap
        for i in range(9):
            aside.submit(lambda c, ready: done.append((c.index, threading.current_thread() is main)), chunk(i))
        aside.finish()
    assert done == [(i, not overlap) for i in range(9)]


def test_the_caller_waits_when_too_much_waits_for_it() -> None:
    gate, begun = threading.Event(), []

    def slow(c: Chunk, ready: Any) -> None:
        begun.append(c.index)
        gate.wait(10)

    with DecodeWorker(CPU, overlap=True) as aside:
        for i in range(DecodeWorker.WAITING):
            aside.submit(slow, chunk(i))
        late = threading.Thread(target=aside.submit, args=(slow, chunk(9)))
        late.start()
        late.join(0.2)
        assert late.is_alive()
        gate.set()
        late.join(10)
        aside.finish()
    assert begun == [*range(DecodeWorker.WAITING), 9]


@pytest.mark.parametrize("overlap", [False, True])
def test_what_fails_aside_fails_here(overlap: bool) -> None:
    def fails(c: Chunk, ready: Any) -> None:
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"), DecodeWorker(CPU, overlap) as aside:
        aside.submit(fails, chunk(0))
        aside.finish()


def test_gradients_are_off_in_the_thread_too() -> None:
    seen = []

    def look(c: Chunk, ready: Any) -> None:
        with aside.stream_context(ready):
            seen.append(torch.is_grad_enabled())

    with DecodeWorker(CPU, overlap=True) as aside:
        aside.submit(look, chunk(0))
        aside.finish()
    assert seen == [False]
