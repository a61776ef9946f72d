"""A bad update does not happen, and its batch is as if it had never been drawn."""

from __future__ import annotations

import json
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from adastate.runtime import atomic_folder
from adastate.training.rollout_sampler import LongRollout
from adastate.training.streaming_rollouts import StreamBatch
from adastate.training.student_rollouts import MicroBatch, StudentSample
from callbacks import Checkpoints
from callbacks.checkpointing.resume import newest_checkpoint
from tests.support.cases import thinned
from tests.support.rig import Prompts, Rows, fit, tiny_distill


class Poisoned(Prompts):
    """Every batch whose number is in `bad` has embeddings that are not numbers; `without` leaves those batches out."""

    def __init__(self, bad: set[int], without: bool) -> None:
        super().__init__()
        self.bad, self.without = bad, without

    def train_dataloader(self) -> Any:
        rows = Rows(self.batch, 1, 0, False)
        every = [(n, batch) for n, batch in zip(range(20), rows, strict=False)]
        kept = [replace(b, prompts=["poison"] * 4) if n in self.bad else b for n, b in every]
        return DataLoader([b for n, b in enumerate(kept) if not (self.without and n in self.bad)], batch_size=None)


def poisonable(**options: Any) -> Any:
    distill = tiny_distill(iterations=5, student_every=2, **options)
    embed = distill.student.embed
    distill.student.embed = lambda prompts: embed(prompts) * (float("nan") if "poison" in prompts[0] else 1.0)
    return distill


@pytest.mark.parametrize("bad", thinned([{1, 4, 5}, {0}, {1}, {2, 3}], every=4))
def test_a_bad_batch_is_as_if_it_had_never_been_drawn(bad: set[int]) -> None:
    """In iterations of both networks and in those of the critic alone, also several in a row."""
    made = []
    for without in (False, True):
        distill = poisonable(patience=4)
        if without:
            fit(distill, Poisoned(bad, True))
        else:
            with pytest.warns(UserWarning, match=r"loss is nan; the update is skipped"):
                fit(distill, Poisoned(bad, False))
        made.append(distill)
    assert made[0].iteration == made[1].iteration == 5
    assert (made[0].guard.skipped, made[1].guard.skipped) == (len(bad), 0)
    one, other = (m.state_dict() for m in made)
    assert [k for k, v in one.items() if isinstance(v, Tensor) and not torch.equal(v, other[k])] == []


def test_a_spike_is_caught_before_the_update() -> None:
    distill = poisonable(spike=10.0)
    distill.guard.least = 2
    embed = distill.student.embed
    distill.student.embed = lambda prompts: embed(["red"] * len(prompts)) * (300.0 if "poison" in prompts[0] else 1.0)
    real = distill.student_loss
    distill.student_loss = lambda sample, text, *rest: (
        lambda loss, found: (loss * (1e3 if float(text.abs().max()) > 100 else 1.0), found)
    )(*real(sample, text, *rest))
    with pytest.warns(UserWarning, match=r"iteration 4: student loss is .* times the usual .*; the update is skipped"):
        fit(distill, Poisoned({4}, False))
    assert distill.guard.skipped == 1 and distill.iteration == 5


def test_bad_updates_in_a_row_stop_the_run() -> None:
    distill = tiny_distill(critic_first=1, patience=3)
    with torch.no_grad():
        distill.critic.net.head.head.bias.fill_(float("inf"))
    with (
        pytest.warns(UserWarning, match="critic loss is inf"),
        pytest.raises(RuntimeError, match="3 bad updates in a row, the last at iteration 0: critic loss is inf"),
    ):
        fit(distill, Prompts())


@pytest.mark.parametrize("bad", thinned([{1, 3}, {0}, {1}, {2}], every=4))
def test_a_bad_iteration_of_carried_streams_is_as_if_it_had_never_been(bad: set[int]) -> None:
    """At the beginning of the streams and within them; they go on from where they were."""
    made = []
    for without in (False, True):
        distill = tiny_distill(iterations=4, student_every=2, long_rollout=LongRollout(12, "streaming"))
        sample = distill.student_sample

        def poisoned(
            part: MicroBatch, *args: Any, sample: Any = sample, without: bool = without, **kwargs: Any
        ) -> StudentSample:
            found = sample(part, *args, **kwargs)
            hit = not without and int(part.index[0]) // 4 in bad
            return replace(found, x=found.x * float("nan")) if hit else found

        distill.student_sample = poisoned
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            fit(distill, Poisoned(bad, True) if without else Prompts())
        made.append(distill)
    assert (made[0].guard.skipped, made[1].guard.skipped) == (len(bad), 0)
    one, other = (m.state_dict() for m in made)
    assert [k for k, v in one.items() if isinstance(v, Tensor) and not torch.equal(v, other[k])] == []
    tails = [m.sampler.streams.state_dict()["tail"] for m in made]
    assert torch.equal(*tails)


def test_streams_that_are_bad_twice_in_a_row_are_given_up() -> None:
    distill = tiny_distill(iterations=2, long_rollout=LongRollout(12, "streaming"), patience=9)
    streams, made = distill.sampler.streams, []
    assert streams is not None
    go_on = StreamBatch.go_on

    def rotten(self: StreamBatch, *args: Any, **kwargs: Any) -> StudentSample:
        """The first stream that there is goes bad after its beginning, and stays so."""
        made.append(self.frames)
        found = go_on(self, *args, **kwargs)
        return replace(found, x=found.x * float("nan")) if made[-1] > 0 and made.count(0) < 2 else found

    with pytest.MonkeyPatch.context() as patch, pytest.warns(UserWarning, match="the update is skipped"):
        patch.setattr(StreamBatch, "go_on", rotten)
        fit(distill, Prompts())
    assert distill.guard.skipped == 2 and distill.iteration == 2
    assert made.count(0) == 2, "a new one began"


def saving(folder: Path, **options: Any) -> pl.Trainer:
    """A trainer that saves every iteration; options of Checkpoints."""
    return pl.Trainer(
        accelerator="cpu",
        max_epochs=-1,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
        callbacks=[Checkpoints(str(folder / "checkpoints"), every=1, **options)],
    )


def test_the_run_stops_with_its_last_good_checkpoint_named(tmp_path: Path) -> None:
    distill = tiny_distill(iterations=9, patience=2)
    sample = distill.student_sample

    def failing(*args: Any, **kwargs: Any) -> StudentSample:
        found = sample(*args, **kwargs)
        return found if distill.iteration < 2 else replace(found, x=found.x * float("nan"))

    distill.student_sample = failing
    trainer = saving(tmp_path)
    with (
        pytest.warns(UserWarning, match="loss is nan; the update is skipped"),
        pytest.raises(
            RuntimeError, match=r"2 bad updates in a row.*the last good checkpoint is .*/checkpoints/00000002"
        ),
    ):
        trainer.fit(distill, datamodule=Prompts())
    assert newest_checkpoint(tmp_path / "checkpoints") == tmp_path / "checkpoints/00000002/state.ckpt"
    told = [json.loads(line)["event"] for line in (tmp_path / "run.log.jsonl").read_text().splitlines()]
    assert told == ["saved", "saved", "update left out"], "the last of them ends the run"


def test_a_save_after_half_an_iteration_is_marked_and_not_called_good(tmp_path: Path) -> None:
    """The critic fails after the student has stepped: the iteration counts, and is saved."""
    distill = tiny_distill(iterations=9, patience=3, student_every=1)
    sample = distill.student_sample

    def failing(part: MicroBatch, purpose: str, *args: Any, **kwargs: Any) -> StudentSample:
        found = sample(part, purpose, *args, **kwargs)
        bad = distill.iteration >= 2 and purpose.startswith("critic")
        return replace(found, x=found.x * float("nan")) if bad else found

    distill.student_sample = failing
    trainer = saving(tmp_path, keep=1)
    told = r"3 bad updates in a row.*the last good checkpoint is .*/checkpoints/00000002"
    with pytest.warns(UserWarning, match="critic loss is nan"), pytest.raises(RuntimeError, match=told):
        trainer.fit(distill, datamodule=Prompts())
    marks = {
        p.name: atomic_folder.checked_manifest(p)["left_out"] for p in atomic_folder.folders(tmp_path / "checkpoints")
    }
    assert marks.keys() == {"00000002", "00000004"} and marks["00000002"] == "", "the last good one is not pruned"
    assert marks["00000004"].startswith("iteration 3: critic loss is nan")
