"""A run that is asked to stop: one step later at most, all ranks at once, saved whole; it goes on to the same bits."""

from __future__ import annotations

import json
import os
import random
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch

from adastate.runtime import atomic_folder, signals
from callbacks import Checkpoints, Preempt
from callbacks.checkpointing.checkpoints import LOG
from callbacks.checkpointing.preempt import Preempted
from tests.support.rank_worker import ranks, wait_for
from tests.support.steps import Steps, run


@pytest.fixture(autouse=True)
def _own_handlers(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(signals, "UNHEARD", frozenset())  # whatever the tests were started by
    before = signals.listen()
    signals.forget()
    yield
    signals.set_handlers(before)
    signals.forget()


def events(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / LOG).read_text().splitlines()]


def begin(iterations: int = 60, **options: Any) -> Steps:
    pl.seed_everything(0)
    return Steps(iterations, **options)


class At(pl.Callback):
    """Sends signals at the start of a step."""

    def __init__(self, iteration: int, *numbers: int) -> None:
        self.iteration, self.numbers = iteration, numbers

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: Any, *_: Any) -> None:
        if pl_module.iteration == self.iteration and not signals.heard():
            for number in self.numbers:
                os.kill(os.getpid(), number)


@pytest.mark.slow
@pytest.mark.parametrize("signals_sent", [3, 20])
def test_signals_at_random_moments_cost_a_step_at_most_and_nothing_of_the_result(
    tmp_path: Path, signals_sent: int
) -> None:
    straight = begin(1200)
    run(tmp_path / "straight", straight)
    draw, stops, module = random.Random(0), 0, begin(1200)
    while module.iteration < 1200 or stops < signals_sent:
        if module.iteration >= 1200:
            (tmp_path / "run").rename(tmp_path / f"finished-{stops}")
        module = begin(1200)
        number = draw.choice([signal.SIGUSR1, signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
        timer = threading.Timer(draw.uniform(0.0, 0.4), os.kill, (os.getpid(), number))
        timer.start()
        try:
            run(tmp_path / "run", module, Preempt())
        except Preempted as stop:
            assert stop.code == signals.AGAIN and signals.heard() == signal.Signals(number).name
            stops += 1
        timer.join()
        signals.listen()
        signals.forget()
        assert module.late <= 1
        folders = atomic_folder.folders(tmp_path / "run" / "checkpoints")
        # a run that is stopped before it has read its checkpoint has done nothing, and loses nothing
        assert not folders or module.iteration in (0, atomic_folder.verify(folders[-1])["iteration"])
    for name, value in straight.state_dict().items():
        if isinstance(value, torch.Tensor):
            assert torch.equal(value, module.state_dict()[name]), name


def test_what_is_written_down(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(Preempted):
        run(tmp_path, begin(), At(7, signal.SIGUSR1), Preempt())
    (saved, preempted) = events(tmp_path)
    assert (saved["event"], saved["iteration"]) == ("saved", 8)
    assert (preempted["event"], preempted["iteration"], preempted["signal"]) == ("preempted", 8, "SIGUSR1")
    said = caplog.text
    assert "SIGUSR1: stopped at iteration 8, saved" in said and "resume with: adastate" in said
    assert "--ckpt_path=auto" in said


def test_gradients_that_are_half_accumulated_are_completed_first(tmp_path: Path) -> None:
    module = begin(half=3)
    with pytest.raises(Preempted):
        run(tmp_path, module, At(4, signal.SIGTERM), Preempt())
    assert (module.iteration, module.batches) == (5, 15)


def test_agreements_may_be_rarer(tmp_path: Path) -> None:
    module = begin()
    with pytest.raises(Preempted):
        run(tmp_path, module, At(11, signal.SIGUSR1), Preempt(every=5))
    assert module.iteration == 15
    with pytest.raises(ValueError, match="every=0"):
        Preempt(every=0)


def test_a_second_signal_does_not_break_the_save(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seal = atomic_folder.seal

    def interrupted(*args: Any) -> Path:
        for number in (signal.SIGUSR1, signal.SIGTERM, signal.SIGTERM):
            os.kill(os.getpid(), number)
        return seal(*args)

    monkeypatch.setattr(atomic_folder, "seal", interrupted)
    with pytest.raises(Preempted):
        run(tmp_path, begin(), At(3, signal.SIGUSR1), Preempt())
    for folder in atomic_folder.folders(tmp_path / "checkpoints"):
        atomic_folder.verify(folder)
    assert events(tmp_path)[-1]["event"] == "preempted"


def test_a_signal_during_setup_stops_before_the_first_step(tmp_path: Path) -> None:
    class Early(pl.Callback):
        def __init__(self, hook: str) -> None:
            setattr(self, hook, lambda *_, **__: os.kill(os.getpid(), signal.SIGTERM))

    for i, callbacks in enumerate(
        ([Early("setup"), Preempt()], [Preempt(), Early("setup")], [Preempt(), Early("on_fit_start")])
    ):
        module = begin()
        with pytest.raises(Preempted):
            run(tmp_path / str(i), module, *callbacks)
        assert module.batches == 0 and not atomic_folder.folders(tmp_path / str(i) / "checkpoints")
        signals.listen()
        signals.forget()


def test_a_run_that_has_just_ended_ends(tmp_path: Path) -> None:
    module = begin(5)
    run(tmp_path, module, At(4, signal.SIGUSR1), Preempt())
    assert module.iteration == 5 and signals.heard() == "SIGUSR1"


def test_the_checkpoint_of_the_same_step_is_not_written_twice(tmp_path: Path) -> None:
    with pytest.raises(Preempted):
        run(tmp_path, begin(), At(9, signal.SIGUSR1), Preempt(), save_every=10)
    assert [e["event"] for e in events(tmp_path)] == ["saved", "preempted"]


def test_lightning_gets_no_signal_of_ours_and_the_handlers_are_put_back(tmp_path: Path) -> None:
    before = {n: signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT, signal.SIGHUP)}
    seen: list[Any] = []

    class Look(pl.Callback):
        def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
            seen.append((signal.getsignal(signal.SIGTERM), trainer.received_sigterm))

    run(tmp_path, begin(3), Preempt(), Look())
    handler, received = seen[-1]
    assert handler.__module__ == "adastate.runtime.signals" and not received
    assert before == {n: signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT, signal.SIGHUP)}


def test_without_checkpoints_it_stops_and_says_so(tmp_path: Path) -> None:
    trainer = pl.Trainer(
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_checkpointing=False,
        enable_model_summary=False,
        default_root_dir=tmp_path,
        callbacks=[At(2, signal.SIGTERM), Preempt()],
    )
    assert not [c for c in trainer.callbacks if isinstance(c, Checkpoints)]  # type: ignore[attr-defined]
    from tests.support.steps import Blank

    with pytest.warns(UserWarning, match="nothing was saved"), pytest.raises(Preempted):
        trainer.fit(begin(), datamodule=Blank())


def test_an_unknown_signal_is_named() -> None:
    with pytest.raises(ValueError, match="'SIGNOTHING' is not a signal"):
        signals.listen(["SIGNOTHING"])


def test_which_exit_codes_mean_that_a_run_can_go_on() -> None:
    assert all(map(signals.stopped, (75, -10, 138, -15, 143)))
    assert not any(map(signals.stopped, (0, 1, 76, -9, 137)))


class Scontrol:
    """In place of the command: what a job is, and what was asked of it."""

    def __init__(self, folder: Path, facts: str) -> None:
        self.log = folder / "asked"
        self.log.unlink(missing_ok=True)
        path = folder / "scontrol"
        path.write_text(f'#!/bin/sh\nif [ "$1" = show ]; then echo "{facts}"; else echo "$@" >> {self.log}; fi\n')
        path.chmod(0o755)

    @property
    def asked(self) -> str:
        return self.log.read_text().strip() if self.log.is_file() else ""


def test_a_job_is_requeued_only_if_that_is_wanted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    assert signals.requeue() == ""
    monkeypatch.setenv("SLURM_JOB_ID", "12")
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    for facts, said, asked in (
        ("JobState=RUNNING BatchFlag=1 Requeue=1", "job 12 requeued", "requeue 12"),
        ("JobState=RUNNING BatchFlag=1 Requeue=0", "job 12 was submitted without --requeue", ""),
        ("JobState=CANCELLED BatchFlag=1 Requeue=1", "job 12 is cancelled and left alone", ""),
        ("JobState=COMPLETING Reason=None BatchFlag=1 Requeue=1", "job 12 is completing and left alone", ""),
        ("JobState=COMPLETING Reason=TimeLimit BatchFlag=1 Requeue=1", "job 12 requeued", "requeue 12"),
        ("JobState=RUNNING BatchFlag=0 Requeue=1", "", ""),
    ):
        scontrol = Scontrol(tmp_path, facts)
        assert (signals.requeue(), scontrol.asked) == (said, asked)
    Scontrol(tmp_path, "JobState=RUNNING BatchFlag=1 Requeue=1")
    with pytest.raises(Preempted):
        run(tmp_path / "a", begin(), At(2, signal.SIGUSR1), Preempt())
    assert events(tmp_path / "a")[-1]["said"] == "job 12 requeued"
    signals.listen()
    signals.forget()
    scontrol = Scontrol(tmp_path, "JobState=RUNNING BatchFlag=1 Requeue=1")
    with pytest.raises(Preempted):
        run(tmp_path / "b", begin(), At(2, signal.SIGUSR1), Preempt(requeue=False))
    assert scontrol.asked == ""


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 1])
def test_a_signal_to_one_rank_stops_both_after_the_same_step(tmp_path: Path, rank: int) -> None:
    with ranks(tmp_path, 2) as both:
        wait_for(both[rank], "at 20")
        both[rank].send_signal(signal.SIGUSR1 if rank else signal.SIGTERM)
        said = [process.communicate(timeout=240)[0] for process in both]
        assert [process.returncode for process in both] == [signals.AGAIN] * 2, "\n".join(said)
    told = [json.loads((tmp_path / f"rank{r}.json").read_text()) for r in (0, 1)]
    assert told[0]["iteration"] == told[1]["iteration"] >= 10
    # an iteration has two steps here: the one in which the signal came is completed, and one more may have begun
    assert told[rank]["late"] <= 3
    (folder,) = atomic_folder.folders(tmp_path / "checkpoints")
    assert atomic_folder.verify(folder)["iteration"] == told[0]["iteration"]
    (event,) = [e for e in events(tmp_path) if e["event"] == "preempted"]
    assert event["iteration"] == told[0]["iteration"]


@pytest.mark.slow
def test_a_signal_before_the_trainer_listens_is_kept(tmp_path: Path) -> None:
    with ranks(tmp_path, 1, "--hold") as (process,):
        wait_for(process, "listening")
        process.send_signal(signal.SIGUSR1)
        process.communicate(timeout=240)
        assert process.returncode == signals.AGAIN
    assert json.loads((tmp_path / "rank0.json").read_text())["iteration"] == 0


@pytest.mark.slow
def test_a_signal_to_the_whole_job_spares_the_loader_workers(tmp_path: Path) -> None:
    with ranks(tmp_path, 1, "--workers", "2") as (process,):
        wait_for(process, "at 20")
        children = (Path(f"/proc/{process.pid}/task/{process.pid}/children")).read_text().split()
        assert len(children) >= 2
        for child in map(int, children):
            os.kill(child, signal.SIGTERM)
            os.kill(child, signal.SIGUSR1)
        process.send_signal(signal.SIGTERM)
        said = process.communicate(timeout=240)[0]
        assert process.returncode == signals.AGAIN, said
    assert events(tmp_path)[-1]["event"] == "preempted"
