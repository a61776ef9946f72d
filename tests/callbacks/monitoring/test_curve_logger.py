"""A disk that takes no curves costs curves, is told of once, and later ones are there again."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from callbacks import CurveLogger

resource = pytest.importorskip("resource")


def test_a_full_disk_costs_points_alone(tmp_path: Path) -> None:
    logger = CurveLogger(tmp_path, name="run", version="", default_hp_metric=False)
    usual = resource.getrlimit(resource.RLIMIT_FSIZE)
    logger.log_metrics({"loss": 1.0}, 1)
    logger.save()
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        try:
            resource.setrlimit(resource.RLIMIT_FSIZE, (1, usual[1]))
            for step in (2, 3):
                logger.log_metrics({"loss": 1.0}, step)
                logger.save()
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, usual)
    sentences = [str(w.message) for w in told if "curves are lost" in str(w.message)]
    assert len(sentences) == 1 and sentences[0].endswith("make room; training continues")
    logger.log_metrics({"loss": 4.0}, 4)
    logger.save()
    logger.finalize("success")
    found = EventAccumulator(str(tmp_path / "run"))
    found.Reload()
    steps = [event.step for event in found.Scalars("loss")]
    assert steps[-1] == 4 and 2 not in steps and 3 not in steps


def test_a_writer_that_cannot_begin_is_told_in_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("a file where the folder of curves has to be")
    logger = CurveLogger(tmp_path, name="run", version="", default_hp_metric=False)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        logger.log_metrics({"loss": 1.0}, 1)
        logger.experiment.add_text("prompts", "a red ball", 1)
    (sentence,) = [str(w.message) for w in told if "curves are lost" in str(w.message)]
    assert str(tmp_path / "run") in sentence and sentence.endswith("; training continues")


def test_a_mistake_is_not_hidden(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    logger = CurveLogger(tmp_path, name="run", version="")
    monkeypatch.setattr("lightning.pytorch.loggers.TensorBoardLogger.log_metrics", wrong)
    with pytest.raises(PermissionError):
        logger.log_metrics({"loss": 1.0}, 1)


def test_a_band_of_noise_without_a_sample_has_no_point(tmp_path: Path) -> None:
    logger = CurveLogger(tmp_path, name="run", version="", default_hp_metric=False)
    logger.log_metrics({"critic/loss_low_noise": float("nan"), "critic/loss_high_noise": 2.0}, 1)
    logger.finalize("success")
    found = EventAccumulator(str(tmp_path / "run"))
    found.Reload()
    assert found.Tags()["scalars"] == ["critic/loss_high_noise"]
