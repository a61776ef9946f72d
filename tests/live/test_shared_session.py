"""A session that two ranks share shows what it shows alone, through every control; the ranks are threads."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import Queue
from typing import Any, cast

import pytest

from adastate.distributed.sequence_split import split_networks
from adastate.live.batch import SessionBatch
from adastate.live.model import LiveModel
from adastate.live.opening import open_session
from adastate.live.session import Session
from adastate.live.shared_session import CallLine, SharedOpening, follow
from adastate.live.snapshot import Snapshot
from adastate.live.step import Step
from tests.live.conftest import live_model
from tests.support.thread_ranks import Desk, ThreadSplit

SYSTEMS = (None, *(pytest.param(name, marks=pytest.mark.slow) for name in ("longlive", "rolling_forcing")))


class ThreadLine(CallLine):
    """Between two threads; what is told is pickled, as between processes."""

    def __init__(self, leads: bool, queue: Queue[bytes]) -> None:
        self.leads, self._queue, self._kept, self._sessions = leads, queue, [], 0

    def tell(self, verb: str, *told: Any) -> None:
        self._queue.put(pickle.dumps((verb, *told)))

    def hear(self) -> Any:
        return self._kept.pop() if self._kept else pickle.loads(self._queue.get(timeout=60))


def tour(model: LiveModel, opened: Callable[..., Session], folder: Path, system: str | None) -> tuple[list[Step], int]:
    """What a session and its kin show, and the bytes of the first one's cache."""
    batch, shown = SessionBatch(), list[Step]()

    def step(*sessions: Session) -> None:
        made = batch.step(sessions)
        assert all(isinstance(each, Step) for each in made), made
        shown.extend(cast(list[Step], made))

    one, two = opened(model, "red ball", 3, system), opened(model, "slow snow", 4, system)
    for _ in range(4):
        step(one, two)
    one.prompt("fast lava")
    one.measure_attention = True
    step(one, two)
    two.rollback(chunks=2)
    twin = one.fork()
    two.close()
    step(one, twin)
    file = one.snapshot().save(folder / f"{system}-{id(model)}.safetensors")
    step(one)
    one.restore(Snapshot.load(file))
    step(one)
    one.prompt("north", "keep" if system == "rolling_forcing" else None)
    shown.append(one.step())
    return shown, one._state.cache.bytes


@pytest.mark.parametrize("system", SYSTEMS)
def test_a_shared_session_is_the_session(system: str | None, tmp_path: Path) -> None:
    desk, queue = Desk(2), Queue[bytes]()
    alone, leader, follower = (live_model(chunk_frames=3, past_frames=3) for _ in range(3))
    for rank, model in enumerate((leader, follower)):
        split_networks([model.student.net, model.student.ema.net], ThreadSplit(cast(Any, desk), 2, rank))
        _ = model.systems
    wanted, held = tour(alone, open_session, tmp_path, system)
    with ThreadPoolExecutor(1) as pool:
        following = pool.submit(follow, ThreadLine(False, queue), follower)
        line = ThreadLine(True, queue)
        try:
            shown, mine = tour(leader, SharedOpening(line), tmp_path, system)
        finally:
            line.tell("end")
            desk.meet.abort() if following.done() else None
        following.result(timeout=60)
    assert mine * 2 == held
    assert len(shown) == len(wanted)
    for a, b in zip(shown, wanted, strict=True):
        assert a.chunk == b.chunk and a.prompt == b.prompt
        assert int((a.video.int() - b.video.int()).abs().max()) <= 1
        assert a.attention == pytest.approx(b.attention, abs=1e-4)
    assert any(step.attention for step in shown)
