"""The stage of the small codecs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from safetensors.torch import load_file

from adastate.encoders import ResidualCodec
from adastate.training.codec_training import CodecTraining
from adastate.types import Batch
from datamodules.world_data import WorldData

FLIGHT = {"kind": "flight", "video_frames": 6, "clips": 4, "batch": 2, "excerpt": 3}


def codec() -> ResidualCodec:
    torch.manual_seed(0)
    return ResidualCodec(None, channels=4, widths=(4, 8, 8, 12))


def stage(out: Path, **options: Any) -> CodecTraining:
    recipe: dict[str, Any] = {"muon_lr": 0.01, "unit": 3e-3, "gradients": 1.0, "vivid": 2.0, "ema": 0.9}
    return CodecTraining(codec(), str(out), **{**recipe, **options})


def fit(module: CodecTraining, folder: Path, steps: int, resume: str | None = None, **options: Any) -> pl.Trainer:
    trainer = pl.Trainer(
        max_steps=steps, accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False,
        default_root_dir=folder, enable_checkpointing="callbacks" in options, **options,
    )  # fmt: skip
    trainer.fit(module, WorldData(**FLIGHT), ckpt_path=resume, weights_only=False if resume else None)
    return trainer


def test_what_is_written_is_the_average_with_statistics_of_its_own_latents(tmp_path: Path) -> None:
    module = stage(tmp_path / "codec.safetensors")
    fit(module, tmp_path, 6)
    saved, written = load_file(tmp_path / "codec.safetensors"), module.written.state_dict()
    assert module.written is not module.codec and saved["decoder.0.weight"].dtype == torch.float16
    assert torch.equal(saved["encoder.0.weight"], written["encoder.0.weight"].half())
    kept = next(iter(WorldData(**FLIGHT).batches())).video
    assert kept is not None
    z = ResidualCodec(str(tmp_path / "codec.safetensors"), channels=4, widths=(4, 8, 8, 12)).encode(kept)
    assert 0.3 < z.std() < 3


def test_a_stopped_training_goes_on_as_if_it_had_not_stopped(tmp_path: Path) -> None:
    whole, second = (stage(tmp_path / f"{name}.safetensors") for name in ("whole", "second"))
    fit(whole, tmp_path, 4, callbacks=[ModelCheckpoint(tmp_path, "half", every_n_train_steps=3, save_top_k=-1)])
    fit(second, tmp_path, 4, resume=str(tmp_path / "half.ckpt"))
    ours, theirs = whole.state_dict(), second.state_dict()
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[k], theirs[k]) for k in ours)


def test_what_stands_out_in_colour_weighs_more_and_the_mean_weight_is_one(tmp_path: Path) -> None:
    video = torch.zeros(1, 3, 3, 64, 64)
    video[..., 1:, 20:24, 20:24] = -1  # red spots on grey
    video[:, :, :, :, 60:] = 0.5  # brightness is no colour
    weight = stage(tmp_path / "codec.safetensors", vivid=8.0)._weight(video)
    assert weight.shape == (1, 3, 1, 64, 64) and weight.mean() == pytest.approx(1)
    assert weight[..., 21, 21].mean() > 5 * weight[..., 5, 5].mean()
    assert torch.allclose(weight[..., 5, 62], weight[..., 5, 5])


def test_a_batch_without_video(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="codec training needs video"):
        stage(tmp_path / "codec.safetensors").training_step(Batch(torch.tensor([0]), [""]), 0)
