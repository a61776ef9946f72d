"""Loggers get the previews: Weights & Biases and MLflow by their own methods, TensorBoard in texts and tags."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch.loggers import CSVLogger, MLFlowLogger, TensorBoardLogger, WandbLogger

from callbacks import Rollouts
from callbacks.previews import tags
from callbacks.previews.tensorboard_layout import OVERVIEW

PROMPTS = ["a red ball", "a blue ocean: " + "far " * 40]
CONFIG = "model:\n  class_path: a.B\n"
SHEETS = ("strip", "drift", "attention")
VIDEOS = ("video_0", "video_1", "state_0", "state_1")


class Recorded:
    """What Lightning asks of a logger, without the package behind it."""

    name = version = run_id = "x"
    experiment: Any = None

    def __init__(self, folder: Path) -> None:
        self.save_dir = str(folder)
        self.seen: list[tuple[Any, ...]] = []

    def __getattribute__(self, name: str) -> Any:
        quiet = ("log_metrics", "log_hyperparams", "log_graph", "save", "after_save_checkpoint", "finalize")
        return (lambda *_, **__: None) if name in quiet else object.__getattribute__(self, name)


class Wandb(Recorded, WandbLogger):
    save_dir = ""  # type: ignore[assignment]

    def log_image(self, key: str, images: list[Any], step: int | None = None, **told: Any) -> None:
        self.seen.append(("image", key, [Path(file).suffix for file in images], step, told))

    def log_video(self, key: str, videos: list[Any], step: int | None = None, **told: Any) -> None:
        self.seen.append(("video", key, [Path(file).is_file() for file in videos], step, told))


class MLflow(Recorded, MLFlowLogger):
    save_dir = ""  # type: ignore[assignment]

    @property
    def experiment(self) -> Any:
        return Client(self.seen)


class Client:
    """MLflow's, as far as it is used."""

    def __init__(self, seen: list[tuple[Any, ...]]) -> None:
        self.seen = seen

    def log_image(self, run_id: str, image: Any, *, key: str, step: int) -> None:
        self.seen.append(("image", key, image.size[0] > 100, step))

    def log_artifact(self, run_id: str, local_path: str, artifact_path: str) -> None:
        assert Path(local_path).is_file()
        self.seen.append(("artifact", artifact_path, Path(local_path).name))

    def log_text(self, run_id: str, text: str, artifact_file: str) -> None:
        self.seen.append(("text", artifact_file, text))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "stage").mkdir()
    (tmp_path / "stage" / "config.yaml").write_text(CONFIG)
    return tmp_path / "stage"


def test_weights_and_biases_gets_strips_videos_and_states(fit: Any, watched: Any, folder: Path) -> None:
    logger = Wandb(folder.parent)
    fit(watched(), Rollouts(PROMPTS, every=100, long=2), steps=1, logger=logger, default_root_dir=folder)
    last = {key: (kind, what, told) for kind, key, what, step, told in logger.seen if step == 1}
    assert last.keys() == {tags.media_tag(horizon, what) for horizon in (1, 2) for what in (*SHEETS, *VIDEOS)}
    for horizon in (1, 2):
        for row in (0, 1):
            for what in ("video", "state"):
                told = {"caption": [PROMPTS[row]], "format": ["mp4"]}
                assert last[f"rollout_{horizon}x/{what}_{row}"] == ("video", [True], told)
        assert last[f"rollout_{horizon}x/strip"] == ("image", [".png"], {"caption": ["\n".join(PROMPTS)]})
    assert (folder / "gallery.html").is_file(), "the run's own files lie in the stage's folder all the same"


def test_mlflow_gets_them_as_images_and_artifacts(fit: Any, watched: Any, folder: Path) -> None:
    logger = MLflow(folder.parent)
    fit(watched(), Rollouts(PROMPTS, every=100, long=0), steps=1, logger=logger, default_root_dir=folder)
    assert ("text", "config.yaml", CONFIG) in logger.seen
    assert ("text", "preview_prompts.txt", f"0. {PROMPTS[0]}\n1. {PROMPTS[1]}\n") in logger.seen
    for what in SHEETS:
        assert [entry[2:] for entry in logger.seen if entry[1] == f"rollout_1x/{what}"] == [(True, 0), (True, 1)]
    files = {entry[2] for entry in logger.seen if entry[:2] == ("artifact", "videos")}
    assert files == {f"0000000{i}-1x-{row}{kind}.mp4" for i in (0, 1) for row in (0, 1) for kind in ("", "-state")}


def test_tensorboard_has_texts_and_prompts_in_tags(fit: Any, watched: Any, events: Any, folder: Path) -> None:
    logger = TensorBoardLogger(folder.parent, "", "stage")
    fit(watched(), Rollouts(PROMPTS, long=0), steps=1, logger=logger, default_root_dir=folder)
    found = events(folder)
    [(_, config)] = found["configuration/text_summary"]
    assert config.string_val[0].decode() == "    model:\n      class_path: a.B"
    [(_, prompts)] = found["preview_prompts/text_summary"]
    assert prompts.string_val[0].decode() == f"    0. {PROMPTS[0]}\n    1. {PROMPTS[1]}"
    media = events(folder / "media")
    assert "rollout_1x/video_0: a red ball" in media
    [long] = [tag for tag in media if tag.startswith("rollout_1x/video_1")]
    assert long == f"rollout_1x/video_1: {PROMPTS[1][:97]}..."


@pytest.mark.parametrize("logger", [False, "csv"])
def test_previews_need_no_tracker(fit: Any, watched: Any, folder: Path, logger: Any) -> None:
    logger = CSVLogger(folder.parent / "csv", "", "") if logger else False
    fit(watched(), Rollouts(PROMPTS, long=0), steps=2, logger=logger, default_root_dir=folder)
    assert len(list((folder / "videos").glob("*.mp4"))) == 8
    if logger:
        assert "rollout_1x/contrast" in (folder.parent / "csv" / "metrics.csv").read_text()


def test_a_tracker_that_fails_does_not_end_the_run(fit: Any, watched: Any, folder: Path) -> None:
    class Broken(MLflow):
        @property
        def experiment(self) -> Any:
            return None

    module = watched()
    with pytest.warns(UserWarning, match=r"(?s)preview at iteration 0 failed and training continues.*NoneType"):
        fit(module, Rollouts(PROMPTS, long=0), steps=2, logger=Broken(folder.parent), default_root_dir=folder)
    assert module.iteration == 2 and (folder / "gallery.html").is_file()


def test_student_and_critic_have_charts_of_their_own() -> None:
    """In one chart, curves of one run differ by their markers alone."""
    for curves in OVERVIEW.values():
        assert len({tag.split("/")[0] for tag in curves}) == 1
