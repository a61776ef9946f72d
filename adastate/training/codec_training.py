"""CodecTraining: the stage of the small codecs. Wan's VAE comes pretrained and never passes through here."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional as nnf
from torch.optim.swa_utils import AveragedModel

from adastate.diffusion.noise import SampleNoise
from adastate.encoders import GroupCodec
from adastate.optim.muon import Muon
from adastate.runtime import atomic
from adastate.training.out_file import write_out
from adastate.types import Batch

STATISTICS = 200
"""Last batches, over which the statistics of the trained encoder's latents are taken."""

AROUND = 15
"""Side of a pixel's surroundings, in pixels."""


class CodecTraining(pl.LightningModule):
    """Trains a codec to reconstruct video, with noise on the latents so that small errors decode to small errors.

    Args:
        codec: the autoencoder; give `weights: null` to start from scratch.
        out: safetensors file written every `save_every` steps and at the end, float16, with the latent statistics
            inside.
        lr: peak learning rate; rises over 50 steps and falls linearly to nothing over the last `lr_decay_fraction` of
            `max_steps`.
        muon_lr: rate of Muon for matrices and kernels, where `lr` is that of the rest; None: AdamW for all.
        noise: deviation of the noise on the raw latents.
        shrink: weight of the mean square of the latents, which keeps their scale.
        unit: weight of the distance of each channel's mean from 0 and of its variance from 1, over a batch.
        gradients: weight of the error of the differences between neighbouring pixels, along and across.
        vivid: by how much a pixel weighs more whose colour stands out from its surroundings, for what is small and
            bright: a balloon before the sky weighs about 1 + vivid.
        ema: decay of the average of the weights that is written; None writes the weights themselves.
        seed: of the noise.
        channels_last: memory format of the frames, faster on a CPU for wide kernels.
    """

    def __init__(
        self,
        codec: GroupCodec,
        out: str = "codec.safetensors",
        lr: float = 2e-3,
        muon_lr: float | None = None,
        lr_decay_fraction: float = 1.0,
        noise: float = 0.1,
        shrink: float = 1e-3,
        unit: float = 0.0,
        gradients: float = 0.0,
        vivid: float = 0.0,
        ema: float | None = None,
        channels_last: bool = False,
        save_every: int = 500,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.codec, self.out, self.lr, self.muon_lr = codec, out, lr, muon_lr
        self.lr_decay_fraction, self.noise, self.shrink, self.unit = lr_decay_fraction, noise, shrink, unit
        self.gradients, self.vivid, self.save_every, self.seed = gradients, vivid, save_every, seed
        self.memory_format = torch.channels_last if channels_last else torch.contiguous_format
        self.average = None if ema is None else AveragedModel(codec, multi_avg_fn=_warmed_up(ema))
        self._moments: list[tuple[Tensor, Tensor]] = []

    @property
    def written(self) -> GroupCodec:
        """The codec whose weights are saved."""
        return self.codec if self.average is None else self.average.module  # type: ignore[return-value]

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        video = self._video(batch)
        z = self.codec.raw(video.flatten(0, 1).contiguous(memory_format=self.memory_format).view(video.shape))
        if self._ending or self.global_step % self.save_every >= self.save_every - 20:  # a few for a save in between
            self._observe(video)
        frames = len(z) // len(video)
        normals = SampleNoise(self.seed, self.global_step, batch.index, "codec", z.device).normal(frames, *z.shape[1:])
        seen = self.codec.reconstruct(z + self.noise * normals.flatten(0, 1), frames)
        weight = self._weight(video)
        error = (weight * (seen - video).square()).mean()
        self.log("codec/error", (seen.detach() - video).square().mean() / video.var())
        if self.gradients:
            error = error + self.gradients * _edge_error(seen, video, weight)
        if self.unit:
            m, v = z.float().mean((0, 2, 3)), z.float().var((0, 2, 3))
            error = error + self.unit * (m.square() + v.log().square()).mean()
        return error + self.shrink * z.square().mean()

    @torch.no_grad()
    def _observe(self, video: Tensor) -> None:
        flat = self.written.raw(video).float().transpose(0, 1).flatten(1)
        self._moments = [*self._moments, (flat.mean(1), flat.square().mean(1))][-STATISTICS:]

    def _weight(self, video: Tensor) -> Tensor:
        """Of every pixel `[B, T, 1, h, w]`; their mean is 1."""
        hue = (video - video.mean(2, keepdim=True)).flatten(0, 1)
        around = nnf.avg_pool2d(hue, AROUND, 1, AROUND // 2, count_include_pad=False)
        weight = 1 + self.vivid * (hue - around).norm(dim=1, keepdim=True)
        return (weight / weight.mean()).unflatten(0, video.shape[:2])

    def _video(self, batch: Batch) -> Tensor:
        if batch.video is None:
            raise ValueError(
                "codec training needs video: give the datamodule `video_frames`, or shards that hold .mp4 files"
            )
        return batch.video

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        super().optimizer_step(*args, **kwargs)
        if self.average is not None:
            self.average.update_parameters(self.codec)
        if self.global_step % self.save_every == 0 or self.global_step + 1 == self.trainer.max_steps:
            self._save()
            if not self._ending:
                self._moments.clear()

    @property
    def _ending(self) -> bool:
        return self.trainer.max_steps - self.global_step < STATISTICS

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["moments"] = self._moments

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self._moments = checkpoint["moments"]

    def on_train_end(self) -> None:
        self._save(last=True)

    def _save(self, last: bool = False) -> None:
        codec = self.written
        if self._moments:
            mean, square = (torch.stack(m).mean(0) for m in zip(*self._moments, strict=True))
            codec.mean.copy_(mean)
            codec.std.copy_((square - mean.square()).clamp_min(1e-6).sqrt())

        def write(path: Path) -> None:
            with atomic.replacing(path, durable=True) as scratch:
                save_file({k: v.half().cpu().contiguous() for k, v in codec.state_dict().items()}, scratch)

        write_out(self.trainer, self.out, write, last)

    def configure_optimizers(self) -> Any:
        weights = list(self.codec.parameters())
        optimizer: torch.optim.Optimizer = torch.optim.AdamW(weights, self.lr)
        if self.muon_lr is not None:
            optimizer = Muon(weights, self.muon_lr, self.lr)
        steps, last = self.trainer.max_steps, self.lr_decay_fraction

        def rate(step: int) -> float:
            return min(1.0, (step + 1) / 50) * max(0.005, min(1.0, (1 - step / steps) / last))

        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, rate)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def _edge_error(seen: Tensor, video: Tensor, weight: Tensor) -> Tensor:
    """Weighted squared error of the differences between neighbours, along and across, of video `[B, T, 3, h, w]`."""
    error = seen - video
    along = (weight[..., 1:] * error.diff(dim=-1).square()).mean()
    return along + (weight[..., 1:, :] * error.diff(dim=-2).square()).mean()


def _warmed_up(decay: float) -> Any:
    """An exponential average that forgets its first, poor weights sooner."""

    @torch.no_grad()
    def update(average: list[Tensor], now: list[Tensor], updates: Tensor | int) -> None:
        n = int(updates)
        torch._foreach_lerp_(average, now, 1 - min(decay, (1 + n) / (10 + n)))

    return update
