"""Ends a run in which a rank no longer responds, and reports which one and where it was."""

from __future__ import annotations

import json
import os
import socket
import sys
import threading
import time
import uuid
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import lightning.pytorch as pl

from callbacks.checkpointing.checkpoints import log_event
from callbacks.protocols import iteration

LOST = 69
"""Exit code of a rank that gave up on another: EX_UNAVAILABLE of sysexits.h."""

SIZE = 1024
"""Bytes of a beat. It is overwritten in place and never grows, so that a rank still beats when the disk is full."""

OURS = ("adastate", "datamodules", "callbacks")


@dataclass
class Beat:
    """A rank's report of itself.

    Args:
        run: token of this start of the run; files of an earlier start are ignored.
        count: grows with every beat.
        moves: grows with every phase of the main thread.
        where: the main thread's innermost line, and the innermost one of this project.
        over: the rank has ended its training, normally or with an error.
    """

    run: str
    rank: int
    host: str = field(default_factory=socket.gethostname)
    pid: int = field(default_factory=os.getpid)
    count: int = 0
    moves: int = 0
    iteration: int = 0
    phase: str = "setting up"
    where: str = ""
    over: bool = False

    def write(self, path: Path) -> None:
        text = json.dumps(asdict(self))
        if len(text) > SIZE:
            self.where = self.where[: max(0, len(self.where) - (len(text) - SIZE) - 8)]
            text = json.dumps(asdict(self))
        with path.open("r+b" if path.is_file() else "wb") as file:
            file.write(text.encode().ljust(SIZE))

    def place(self) -> str:
        return f"iteration {self.iteration}, {self.phase}, {self.where} (process {self.pid} on {self.host})"

    @classmethod
    def read(cls, path: Path) -> Beat | None:
        """None if there is no file, or an incomplete one that is being written."""
        try:
            return cls(**json.loads(path.read_bytes()))
        except (OSError, ValueError, TypeError):
            return None


class Watch:
    """One rank's view of another: when its beat and its phase last changed, by this rank's own clock."""

    def __init__(self, now: float) -> None:
        self.beat: Beat | None = None
        self.beaten = self.moved = now

    def see(self, beat: Beat | None, now: float) -> None:
        if beat is None:
            return
        if self.beat is None or beat.count != self.beat.count:
            self.beaten = now
        if self.beat is None or beat.moves != self.beat.moves:
            self.moved = now
        self.beat = beat

    def wrong(self, now: float, timeout_s: float) -> str:
        """What is wrong with the rank, or ""."""
        if self.beat is not None and self.beat.over:
            return ""
        if now - self.beaten > timeout_s:
            return f"has sent no heartbeat for {now - self.beaten:.0f} s"
        return f"has not moved for {now - self.moved:.0f} s" if now - self.moved > timeout_s else ""


class Heartbeat(pl.Callback):
    """Each rank writes its position to `<run>/<stage>/ranks/`; a rank that sees another hang ends the run.

    A thread beats every few seconds, so a process that is stopped or gone falls silent; the beats also say when the
    main thread last entered another phase, so one that waits forever is detected too. Every rank watches itself and
    the next one. The finding is printed with the position of every rank, and the process exits at once with `LOST`,
    upon which torchrun or srun end the others: nothing less frees a rank that waits in a collective. A run of one
    process is not watched.

    Args:
        timeout_s: seconds without a beat, or in one phase. Must exceed the longest preview, save or evaluation.
        every_s: seconds between beats.
    """

    def __init__(self, timeout_s: float = 1200.0, every_s: float = 5.0) -> None:
        if not 0 < every_s <= timeout_s / 3:
            raise ValueError(f"every_s={every_s} must be above 0 and at most a third of timeout_s={timeout_s}")
        self.timeout_s, self.every_s = timeout_s, every_s
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None
        self._mine = Beat("", 0)

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        if stage != "fit" or trainer.world_size == 1:
            return
        self._trainer = trainer
        run = trainer.strategy.broadcast(uuid.uuid4().hex)
        self._mine = Beat(run, trainer.global_rank)
        self._folder = Path(trainer.strategy.broadcast(str(Path(trainer.default_root_dir).resolve()))) / "ranks"
        self._folder.mkdir(parents=True, exist_ok=True)
        self._main = threading.get_ident()
        self._ended.clear()
        self._write()
        self._thread = threading.Thread(target=self._beat, name="heartbeat", daemon=True)
        self._thread.start()

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._move(trainer, pl_module, "waiting for its first batch")

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        self._move(trainer, pl_module, "in the training step")

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        self._move(trainer, pl_module, "between two steps")  # previews, checkpoints, the next batch

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._move(trainer, pl_module, "at the end of training")

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        self._end("done")

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        self._end(f"ended by {type(exception).__name__}")

    def _move(self, trainer: pl.Trainer, module: pl.LightningModule, phase: str) -> None:
        self._mine.iteration, self._mine.phase = iteration(trainer, module), phase
        self._mine.moves += 1

    def _end(self, phase: str) -> None:
        if self._thread is None:
            return
        self._ended.set()
        self._thread.join(self.every_s)
        self._thread = None
        self._mine.phase, self._mine.over = phase, True
        self._write()

    def _write(self) -> bool:
        self._mine.count += 1
        try:
            self._mine.write(self._path(self._mine.rank))
        except OSError:
            return False
        return True

    def _path(self, rank: int) -> Path:
        return self._folder / f"{rank}.json"

    def _read(self, rank: int) -> Beat | None:
        beat = Beat.read(self._path(rank))
        return beat if beat is not None and beat.run == self._mine.run else None

    def _beat(self) -> None:
        me, world = self._mine.rank, self._trainer.world_size
        watched = {rank: Watch(time.monotonic()) for rank in (me, (me + 1) % world)}
        before = time.monotonic()
        while not self._ended.wait(self.every_s):
            now = time.monotonic()
            self._mine.where = standing(self._main)
            if not self._write() or now - before > self.timeout_s / 2:
                # a rank that cannot write, or was itself stopped for a while, cannot judge the others
                watched = {rank: Watch(now) for rank in watched}
            before = now
            for rank, watch in watched.items():
                watch.see(replace(self._mine) if rank == me else self._read(rank), now)
                wrong = watch.wrong(now, self.timeout_s)
                if wrong and not self._ended.is_set():
                    self._give_up(rank, wrong)

    def _give_up(self, rank: int, wrong: str) -> None:
        first = self._beats()
        for _ in range(2):  # every live rank, including this one, has beaten once by then
            self._ended.wait(0.75 * self.every_s)
            self._write()
        if self._ended.is_set():
            return  # it did move
        beats = self._beats()
        told = [f"[adastate] rank {rank} {wrong}; {verdict(first, beats)}. Ended; start it again to resume."]
        told += [f"  rank {r}: {'no heartbeat yet' if b is None else b.place()}" for r, b in beats.items()]
        print("\n".join(told), file=sys.stderr, flush=True)
        log_event(self._trainer, "rank lost", said=told)
        self._mine.over = True  # ranks that look after this one has exited must not take it for the cause
        self._write()
        os._exit(LOST)

    def _beats(self) -> dict[int, Beat | None]:
        return {rank: self._read(rank) for rank in range(self._trainer.world_size)}


def verdict(first: dict[int, Beat | None], then: dict[int, Beat | None]) -> str:
    """The ranks at fault, from two readings of all beats: the silent ones, or else those that are behind."""

    def ranks(found: list[int]) -> str:
        return f"rank{'s' if len(found) > 1 else ''} {', '.join(map(str, found))}"

    silent = []
    for rank, beat in then.items():
        old = first[rank]
        if beat is None or (old is not None and not beat.over and beat.count == old.count):
            silent.append(rank)
    if silent:
        return f"{ranks(silent)} does not answer" if len(silent) == 1 else f"{ranks(silent)} do not answer"
    moves = {rank: beat.moves for rank, beat in then.items() if beat is not None}
    behind = [rank for rank, n in moves.items() if n == min(moves.values())]
    return "all ranks are at the same place" if len(behind) == len(moves) else f"behind the others: {ranks(behind)}"


def standing(thread: int) -> str:
    """Position of a thread of this process: `file:line function`, and the line of this project that called it."""
    frame = sys._current_frames().get(thread)
    places: list[str] = []
    while frame is not None and len(places) < 2:
        name = str(frame.f_globals.get("__name__", ""))
        if not places or name.split(".")[0] in OURS:
            places.append(f"{name}:{frame.f_lineno} {frame.f_code.co_name}")
            if name.split(".")[0] in OURS:
                break
        frame = frame.f_back
    return " from ".join(places)
