"""Saving and going on: what is kept, what a full disk costs, and that a resumed run ends with the same weights."""

from __future__ import annotations

import errno
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from torch.utils.data import DataLoader

from adastate.runtime import atomic_folder, folder_lock
from adastate.training.out_file import NotWritten
from adastate.types import Batch
from adastate.weights import native
from callbacks import Checkpoints
from callbacks.checkpointing.checkpoints import LOG
from callbacks.checkpointing.resume import STATE, newest_checkpoint, require_whole_checkpoint
from tests.runtime.test_folder_lock import HOLD
from tests.support.cases import thinned
from tests.support.rig import tiny_distill


class Same(pl.LightningDataModule):
    """The same batch for ever: where the data goes on is tests/datamodules' matter."""

    batch = 4

    def train_dataloader(self) -> Iterator[Batch]:
        batch = Batch(torch.arange(4), ["red ball", "fast snow", "slow lava", "plain north"])
        return DataLoader([batch] * 64, batch_size=None)  # type: ignore[return-value]


def train(folder: Path, iterations: int, resume: Path | None = None, **options: Any) -> tuple[Any, pl.Trainer]:
    """The real Distill at its smallest, to iteration `iterations` of 6."""
    pl.seed_everything(0)
    module = tiny_distill(iterations=6, student_every=2, **options.pop("module", {}))
    saving = Checkpoints(str(folder / "checkpoints"), **{"every": 1, "keep": 2, **options})

    class Stop(pl.Callback):
        def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
            trainer.should_stop = trainer.should_stop or module.iteration >= iterations

    trainer = pl.Trainer(
        accelerator="cpu",
        max_epochs=-1,
        logger=False,
        callbacks=[Stop(), saving],
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
    )
    trainer.fit(module, datamodule=Same(), ckpt_path=resume, weights_only=True if resume else None)
    return module, trainer


def weights(module: Any) -> dict[str, torch.Tensor]:
    return {k: v.clone() for k, v in module.state_dict().items() if isinstance(v, torch.Tensor)}


def optimisers(trainer: pl.Trainer) -> list[torch.Tensor]:
    return [
        v
        for optimizer in trainer.optimizers
        for state in optimizer.state_dict()["state"].values()
        for v in state.values()
        if isinstance(v, torch.Tensor)
    ]


def test_the_newest_ones_are_kept_and_say_what_they_hold(tmp_path: Path) -> None:
    train(tmp_path, 5)
    root = tmp_path / "checkpoints"
    assert [p.name for p in atomic_folder.folders(root)] == ["00000004", "00000005"]
    manifest = atomic_folder.verify(root / "00000005")
    assert manifest["iteration"] == 5 and manifest["world"] == 1
    assert manifest["versions"]["torch"] == torch.__version__
    log = [json.loads(line) for line in (tmp_path / LOG).read_text().splitlines()]
    assert [(e["event"], e["iteration"]) for e in log] == [("saved", i) for i in range(1, 6)]


def test_the_best_is_kept_beside_the_newest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    values = [3.0, 1.0, 2.0, 5.0, 4.0]
    told = pl.Trainer.callback_metrics

    def with_gap(trainer: pl.Trainer) -> dict[str, Any]:
        iteration = getattr(trainer.lightning_module, "iteration", 0)
        return {**told.fget(trainer), "gap": values[max(0, iteration - 1)]}  # type: ignore[misc]

    monkeypatch.setattr(pl.Trainer, "callback_metrics", property(with_gap))
    train(tmp_path, 5, monitor="gap")
    assert [p.name for p in atomic_folder.folders(tmp_path / "checkpoints")] == ["00000002", "00000004", "00000005"]


def test_frozen_networks_are_not_in_it_and_plain_data_is_all_there_is(tmp_path: Path) -> None:
    train(tmp_path, 1)
    state = torch.load(newest_checkpoint(tmp_path / "checkpoints") or "", weights_only=True)
    names = list(state["state_dict"])
    assert any(n.startswith("student.ema") for n in names) and any(n.startswith("critic.") for n in names)
    assert not [n for n in names if n.startswith(("teacher.", "student.codec."))]


@pytest.mark.parametrize("stop", [3, *(pytest.param(n, marks=pytest.mark.slow) for n in (1, 2, 4, 5))])
def test_a_run_that_goes_on_ends_with_the_same_bits(tmp_path: Path, stop: int) -> None:
    """Stopped after each iteration once."""
    straight, trainer = train(tmp_path / "a", 6, every=100)
    train(tmp_path / "b", stop)
    state = newest_checkpoint(tmp_path / "b" / "checkpoints")
    resumed, after = train(tmp_path / "b", 6, resume=state)
    assert resumed.iteration == straight.iteration == 6
    expected, found = weights(straight), weights(resumed)
    assert expected.keys() == found.keys()
    different = [k for k in expected if not torch.equal(expected[k], found[k])]
    assert different == []
    assert all(torch.equal(a, b) for a, b in zip(optimisers(trainer), optimisers(after), strict=True))


def test_a_checkpoint_never_holds_half_an_accumulation(tmp_path: Path) -> None:
    module, _ = train(tmp_path, 2, module={"global_batch": 8}, every=1)
    assert module.accumulate == 2
    manifests = [atomic_folder.checked_manifest(p) for p in atomic_folder.folders(tmp_path / "checkpoints")]
    assert [m["iteration"] for m in manifests] == [1, 2]


def full(*_: Any, **__: Any) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


WHERE: dict[str, Callable[[pytest.MonkeyPatch], None]] = {
    "making the folder": lambda p: p.setattr(atomic_folder, "begin", full),
    "writing the state": lambda p: p.setattr(pl.Trainer, "save_checkpoint", full),
    "sealing it": lambda p: p.setattr(atomic_folder, "seal", full),
    "torch's own words": lambda p: p.setattr(
        pl.Trainer,
        "save_checkpoint",
        lambda *_, **__: (_ for _ in ()).throw(RuntimeError("[enforce fail at inline_container.cc] file write failed")),
    ),
}


@pytest.mark.parametrize("where", thinned(WHERE, every=3))
def test_a_full_disk_leaves_the_earlier_ones_and_says_so(tmp_path: Path, where: str) -> None:
    train(tmp_path, 2)
    with pytest.MonkeyPatch.context() as patch, pytest.warns(UserWarning, match="not saved: .*earlier ones are intact"):
        WHERE[where](patch)
        module, _ = train(tmp_path, 4, resume=newest_checkpoint(tmp_path / "checkpoints"))
    assert module.iteration == 4, "training went on"
    assert [p.name for p in atomic_folder.folders(tmp_path / "checkpoints")] == ["00000001", "00000002"]
    assert not list((tmp_path / "checkpoints").glob(".*"))
    events = [json.loads(line)["event"] for line in (tmp_path / LOG).read_text().splitlines()]
    assert events == ["saved", "saved", "resumed", "not saved", "not saved"]


def test_a_mistake_that_is_not_the_disk_s_is_not_hidden(tmp_path: Path) -> None:
    def broken(*_: Any, **__: Any) -> None:
        raise RuntimeError("cannot pickle it")

    with pytest.MonkeyPatch.context() as patch, pytest.raises(RuntimeError, match="cannot pickle it"):
        patch.setattr(pl.Trainer, "save_checkpoint", broken)
        train(tmp_path, 1)


def test_a_damaged_checkpoint_is_told_and_the_one_before_is_taken(tmp_path: Path) -> None:
    train(tmp_path, 3)
    root = tmp_path / "checkpoints"
    last = root / "00000003" / STATE
    content = bytearray(last.read_bytes())
    content[len(content) // 2] ^= 1
    last.write_bytes(content)
    with pytest.raises(atomic_folder.Damaged, match="has other bytes than were written"):
        require_whole_checkpoint(last)
    with pytest.warns(UserWarning, match=r"00000003 is damaged: state.ckpt has other bytes .* an earlier checkpoint"):
        assert newest_checkpoint(root) == root / "00000002" / STATE


def test_leftovers_of_a_killed_run_are_swept_away(tmp_path: Path) -> None:
    scratch = atomic_folder.begin(tmp_path / "checkpoints", "00000009")
    (scratch / STATE).write_bytes(b"half")
    assert newest_checkpoint(tmp_path / "checkpoints") is None
    train(tmp_path, 1)
    assert [p.name for p in (tmp_path / "checkpoints").iterdir()] == ["00000001"]


@pytest.mark.slow
def test_a_run_killed_after_its_last_save_does_nothing_more(tmp_path: Path) -> None:
    first, _ = train(tmp_path, 6)
    again, _ = train(tmp_path, 6, resume=newest_checkpoint(tmp_path / "checkpoints"))
    assert again.iteration == 6
    before, after = weights(first), weights(again)
    assert all(torch.equal(before[k], after[k]) for k in before)


def test_a_banner_says_from_where_and_that_the_loss_goes_on(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    train(tmp_path, 2)
    manifest = atomic_folder.verify(tmp_path / "checkpoints" / "00000002")
    assert manifest["seed"] == 0 and set(manifest["losses"]) == {"critic/loss", "student/loss"}
    with caplog.at_level("INFO"):
        train(tmp_path, 3, resume=newest_checkpoint(tmp_path / "checkpoints"))
    digest = atomic_folder.fingerprint(tmp_path / "checkpoints" / "00000002")
    assert f"00000002 (sha256 {digest}) at iteration 2, where the losses were critic/loss" in caplog.text
    assert "losses at iteration 3: critic/loss" in caplog.text


def test_a_checkpoint_of_a_later_format_is_refused_with_the_reason(tmp_path: Path) -> None:
    train(tmp_path, 1)
    folder = tmp_path / "checkpoints" / "00000001"
    atomic_folder.write_manifest(folder, {**atomic_folder.checked_manifest(folder), "format": 7})
    for read, at in ((newest_checkpoint, folder.parent), (require_whole_checkpoint, folder / STATE)):
        with pytest.raises(atomic_folder.Damaged, match=r"in format 7; this one, .* reads formats up to 1: update it"):
            read(at)


@pytest.mark.parametrize("lacking", ["iteration", "format", "versions", STATE, "manifest"])
def test_a_manifest_without_what_has_to_be_in_it_lets_nothing_in(tmp_path: Path, lacking: str) -> None:
    train(tmp_path, 2)
    folder = tmp_path / "checkpoints" / "00000002"
    told = atomic_folder.checked_manifest(folder)
    told["files"] = {name: file for name, file in told["files"].items() if name != lacking}
    atomic_folder.write_manifest(folder, {name: value for name, value in told.items() if name != lacking})
    if lacking == "manifest":
        (folder / atomic_folder.MANIFEST).unlink()
    with pytest.raises(atomic_folder.Damaged, match=f"{folder}.*({lacking}|no readable|no files)"):
        require_whole_checkpoint(folder / STATE)
    assert newest_checkpoint(folder.parent) == folder.parent / "00000001" / STATE


def test_gone_back_to_an_earlier_one_the_later_ones_are_moved_aside_and_nothing_new_is_lost(tmp_path: Path) -> None:
    train(tmp_path, 4, keep=4)
    root = tmp_path / "checkpoints"
    with pytest.warns(UserWarning, match=r"later checkpoints \(00000003, 00000004\) are moved to .*aside-1"):
        train(tmp_path, 3, resume=root / "00000002" / STATE, keep=1)
    assert [p.name for p in atomic_folder.folders(root)] == ["00000003"]
    assert [p.name for p in atomic_folder.folders(root / "aside-1")] == ["00000003", "00000004"]
    assert newest_checkpoint(root) == root / "00000003" / STATE
    (event,) = [e for e in map(json.loads, (tmp_path / LOG).read_text().splitlines()) if e["event"] == "set aside"]
    assert (event["iteration"], event["checkpoints"]) == (2, ["00000003", "00000004"])
    runs = {atomic_folder.checked_manifest(p)["run"] for p in (root / "00000003", root / "aside-1" / "00000004")}
    assert len(runs) == 1, "they belong to one run"


@pytest.mark.slow
def test_a_copy_is_neither_pruned_nor_gone_on_with(tmp_path: Path) -> None:
    train(tmp_path, 2)
    root = tmp_path / "checkpoints"
    for name in ("00000001-keep", "00000009_before_lr_change"):
        shutil.copytree(root / "00000001", root / name)
    assert newest_checkpoint(root) == root / "00000002" / STATE
    train(tmp_path, 5, resume=newest_checkpoint(root))
    assert sorted(p.name for p in root.iterdir()) == [
        "00000001-keep", "00000004", "00000005", "00000009_before_lr_change",
    ]  # fmt: skip


def test_no_run_begins_where_another_has_left_checkpoints(tmp_path: Path) -> None:
    train(tmp_path, 2)
    with pytest.raises(ValueError, match=r"holds checkpoints .*--ckpt_path=auto.* RUN=another/folder.* --overwrite"):
        train(tmp_path, 2)
    assert [p.name for p in atomic_folder.folders(tmp_path / "checkpoints")] == ["00000001", "00000002"]


def test_an_older_one_that_is_rotten_costs_nothing(tmp_path: Path) -> None:
    """Where the best of all is looked for, and where it cannot be deleted."""
    train(tmp_path, 2, monitor="critic/loss")
    root = tmp_path / "checkpoints"
    (root / "00000001" / atomic_folder.MANIFEST).write_text("{")
    train(tmp_path, 3, resume=newest_checkpoint(root), monitor="critic/loss")
    assert "00000003" in [p.name for p in atomic_folder.folders(root)]


def test_a_failed_deletion_is_no_failed_save(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(atomic_folder, "delete", full)
    with pytest.warns(UserWarning, match=r"checkpoint 00000003 is saved; .*00000001 could not be deleted: No space"):
        train(tmp_path, 3)
    log = [json.loads(line) for line in (tmp_path / LOG).read_text().splitlines()]
    assert [e["event"] for e in log] == ["saved"] * 3 and "No space left" in log[-1]["not_removed"]


def test_a_checkpoint_of_one_file_goes_straight_to_its_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A TMPDIR that holds nothing costs nothing, and a kill leaves nothing there."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "no such folder"))
    train(tmp_path / "run", 1)
    assert newest_checkpoint(tmp_path / "run" / "checkpoints") is not None


def test_a_student_that_the_disk_does_not_take_costs_that_write_alone(tmp_path: Path) -> None:
    out, told = tmp_path / "student.safetensors", list[int]()
    real = native.write_safetensors

    def second(*arguments: Any) -> None:
        told.append(1)
        full() if len(told) == 2 else real(*arguments)

    with (
        pytest.MonkeyPatch.context() as patch,
        pytest.warns(UserWarning, match=r"student.safetensors is not written: No"),
    ):
        patch.setattr(native, "write_safetensors", second)
        train(tmp_path, 3, module={"out": str(out), "save_every": 1})
    assert out.is_file() and [p.name for p in tmp_path.glob(".*")] == []
    assert [p.name for p in atomic_folder.folders(tmp_path / "checkpoints")] == ["00000002", "00000003"]
    out.unlink()
    with (
        pytest.MonkeyPatch.context() as patch,
        pytest.raises(NotWritten, match=r"weights import .*/00000004 .*student"),
    ):
        patch.setattr(native, "write_safetensors", full)
        train(tmp_path, 4, resume=newest_checkpoint(tmp_path / "checkpoints"), module={"out": str(out)})
    assert newest_checkpoint(tmp_path / "checkpoints") == tmp_path / "checkpoints/00000004" / STATE


def test_a_folder_in_which_another_run_works_is_left_as_it_is(tmp_path: Path) -> None:
    train(tmp_path, 1)
    unfinished = atomic_folder.begin(tmp_path / "checkpoints", "00000002")
    with subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None and other.stdout.readline() == "held\n"
        with pytest.raises(folder_lock.FolderInUse, match=f"in use by process {other.pid} on"):
            train(tmp_path, 2, resume=newest_checkpoint(tmp_path / "checkpoints"))
        assert unfinished.is_dir(), "it is the other's, who is about to save"
        other.kill()
    train(tmp_path, 2, resume=newest_checkpoint(tmp_path / "checkpoints"))
    assert newest_checkpoint(tmp_path / "checkpoints") == tmp_path / "checkpoints/00000002" / STATE
    assert (tmp_path / folder_lock.NAME).read_text() == "", "who ends well leaves no name"
