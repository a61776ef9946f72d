"""What loggers get besides scalars: previews for Weights & Biases and MLflow, the configuration and prompts.

TensorBoard's pictures are written by PreviewFiles itself. Other loggers, such as CSV, get scalars only.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import lightning.pytorch as pl
from lightning.pytorch.loggers import Logger, MLFlowLogger, TensorBoardLogger, WandbLogger
from PIL import Image

from adastate.runtime import plain_yaml
from callbacks.previews import tags

CONFIGURATION, PROMPTS = "configuration", "preview_prompts"


@dataclass(frozen=True)
class Shown:
    """A file of a preview: `what` it shows ("strip", "video_0", "state_0"), and for which prompts."""

    what: str
    file: Path
    caption: str


def run_folder(trainer: pl.Trainer) -> Path:
    """Folder for previews: beside TensorBoard's events, or else the folder of the stage; all ranks have to call it."""
    beside = trainer.log_dir if isinstance(trainer.logger, TensorBoardLogger) else None  # a broadcast
    return Path(beside or trainer.default_root_dir)


def log_texts(loggers: Iterable[Logger], prompts: Sequence[str], config: Path, step: int) -> None:
    """Logs the configuration, if the file exists, and the prompts of the previews, as texts."""
    written = config.read_text(encoding="utf-8") if config.is_file() else ""
    listed = "".join(f"{row}. {prompt}\n" for row, prompt in enumerate(prompts))
    for logger in loggers:
        if isinstance(logger, TensorBoardLogger):
            # Indented, because the tab renders Markdown.
            for name, text in ((CONFIGURATION, written), (PROMPTS, listed)):
                logger.experiment.add_text(name, "\n".join(f"    {line}" for line in text.splitlines()), step)
        elif isinstance(logger, WandbLogger):
            logger.log_hyperparams({CONFIGURATION: plain_yaml.load_yaml(written) or {}, PROMPTS: list(prompts)})
        elif isinstance(logger, MLFlowLogger):
            for file, text in (("config.yaml", written), (f"{PROMPTS}.txt", listed)):
                logger.experiment.log_text(logger.run_id, text, file)


def log_media(loggers: Iterable[Logger], horizon: int, step: int, files: Sequence[Shown]) -> None:
    """Logs pictures and videos of one preview, under names that stay the same from preview to preview."""
    for logger in loggers:
        for shown in files:
            key, video = tags.media_tag(horizon, shown.what), shown.file.suffix == ".mp4"
            if isinstance(logger, WandbLogger):
                if video:
                    logger.log_video(key, [str(shown.file)], step, caption=[shown.caption], format=["mp4"])
                else:
                    logger.log_image(key, [str(shown.file)], step, caption=[shown.caption])
            elif isinstance(logger, MLFlowLogger):
                if video:
                    logger.experiment.log_artifact(logger.run_id, str(shown.file), "videos")
                else:
                    with Image.open(shown.file) as image:
                        logger.experiment.log_image(logger.run_id, image, key=key, step=step)
