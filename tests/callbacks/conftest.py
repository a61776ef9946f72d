"""A module that streams made-up chunks, and trainers that fit it in a second."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.loggers import TensorBoardLogger
from tensorboard.backend.event_processing.event_file_loader import EventFileLoader
from torch import Tensor, nn
from torch.utils.data import DataLoader

from adastate.types import Chunk

GROUP = 2  # pictures a latent frame


class FlatCodec(nn.Module):
    """A latent `[B, F, 3, 8, 8]` is its own picture, shown twice. Streams count what they decode."""

    channels, scale, fps = 3, 1, 8

    def video_frames(self, frames: int) -> int:
        return frames * GROUP

    def encode(self, video: Tensor) -> Tensor:
        return video[:, ::GROUP]

    def decode(self, latents: Tensor) -> Tensor:
        return latents.repeat_interleave(GROUP, 1).clamp(-1, 1)

    def stream(self) -> FlatCodec:
        return self


class Watched(pl.LightningModule):
    """Satisfies `Streams`. Chunk c is flat at -1 + c/10, its state at 1 - c/10."""

    rollout_frames, chunk_frames, latent_size = 6, 3, (8, 8)

    def __init__(self, fails: bool = False, with_state: bool = True, with_shares: bool = True) -> None:
        super().__init__()
        self.codec = FlatCodec()
        self.net = nn.Linear(4, 4)
        self.drop = nn.Dropout(0.5)
        self.frozen = nn.Dropout(0.5).eval()
        self.iteration = 0
        self.fails, self.with_state = fails, with_state
        self.streamed: list[tuple[int, int]] = []  # iteration, frames
        self.seen: list[Tensor] = []
        if with_shares:
            self.attention_share = self._shares

    def stream(self, prompts: list[str], frames: int, seed: int, index: Any = None) -> Iterator[Chunk]:
        self.streamed.append((self.iteration, frames))
        if self.fails:
            raise RuntimeError("no such luck")
        assert not self.training and not torch.is_grad_enabled()
        torch.manual_seed(seed)  # rude on purpose: the callback has to put the random state back
        shape = (len(prompts), 3, 3, 8, 8)
        for c in range(frames // 3):
            state = torch.full(shape, 1 - c / 10)[:, :1] if self.with_state else None
            yield Chunk(c, c * 3, torch.full(shape, -1 + c / 10) + 0.01 * torch.rand(shape), state, 5)

    def _shares(self, prompts: list[str], frames: int, seed: int) -> dict[str, list[float]]:
        chunks = frames // 3
        return {"state": [0.25] * chunks, "past": [0.25] * chunks, "own": [0.5] * chunks}

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        self.seen.append(torch.rand(3))
        loss = self.drop(self.net(batch)).square().mean() + 0 * self.frozen(batch).sum()
        self.log("loss", loss, prog_bar=True)
        self.iteration += 1
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), 0.1)


Fit = Callable[..., tuple[pl.Trainer, Path]]


@pytest.fixture
def watched() -> type[Watched]:
    return Watched


@pytest.fixture
def fit(tmp_path: Path) -> Fit:
    """Fits a module for some steps; gives the trainer and the run folder."""

    def run(module: pl.LightningModule, *callbacks: Any, steps: int = 4, **kwargs: Any) -> tuple[pl.Trainer, Path]:
        pl.seed_everything(3)
        data: Any = kwargs.pop("data", DataLoader(torch.randn(64, 4), batch_size=4))
        options = {"enable_progress_bar": False, "logger": TensorBoardLogger(tmp_path, "", "run"), **kwargs}
        trainer = pl.Trainer(
            max_steps=steps,
            accelerator="cpu",
            callbacks=list(callbacks),
            enable_checkpointing=False,
            enable_model_summary=False,
            log_every_n_steps=1,
            **options,
        )
        trainer.fit(module, data)
        return trainer, tmp_path / "run"

    return run


Events = dict[str, list[tuple[int, Any]]]


@pytest.fixture
def events() -> Callable[[Path], Events]:
    """All values in a folder's event files as tag -> [(step, number or image or other tensor)]."""

    def read(folder: Path) -> Events:
        found: Events = {}
        for file in sorted(folder.glob("events.out.*")):
            for event in EventFileLoader(str(file)).Load():
                for value in event.summary.value:
                    what: Any = value.tensor
                    if what.float_val:
                        what = what.float_val[0]
                    found.setdefault(value.tag, []).append((event.step, what))
        return found

    return read
