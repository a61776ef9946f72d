"""CodecTraining: the tiny codec's own stage. Wan's VAE comes pretrained and never passes through here."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from safetensors.torch import save_file
from torch import Tensor

from adastate.encoders import TinyCodec
from adastate.runtime import atomic
from adastate.types import Batch


class CodecTraining(pl.LightningModule):
    """Trains a TinyCodec to reconstruct video, with noise on the latents so that small errors decode to small errors.

    Args:
        codec: the autoencoder; give `weights: null` to start from scratch.
        out: safetensors file written at the end, float16, with the latent statistics inside.
        lr: peak learning rate; falls linearly to nothing over `max_steps`.
        noise: deviation of the noise on the raw latents.
        shrink: weight of the mean square of the latents, which keeps their scale.
    """

    def __init__(
        self,
        codec: TinyCodec,
        out: str = "codec.safetensors",
        lr: float = 2e-3,
        noise: float = 0.1,
        shrink: float = 1e-3,
    ) -> None:
        super().__init__()
        self.codec, self.out, self.lr, self.noise, self.shrink = codec, out, lr, noise, shrink
        self._moments: list[tuple[Tensor, Tensor]] = []

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        video = self._video(batch)
        z = self.codec.raw(video)
        seen = self.codec.reconstruct(z + self.noise * torch.randn_like(z), z.shape[0] // video.shape[0])
        error = (seen - video).square().mean()
        self.log("codec/error", error.detach() / video.var())
        if batch_idx >= self.trainer.max_steps - 200:  # statistics of the trained encoder, over its last batches
            flat = z.detach().transpose(0, 1).flatten(1)
            self._moments.append((flat.mean(1), flat.square().mean(1)))
        return error + self.shrink * z.square().mean()

    def _video(self, batch: Batch) -> Tensor:
        if batch.video is None:
            raise ValueError(
                "codec training needs video: give the datamodule `pictures`, or shards that hold .mp4 files"
            )
        return batch.video

    def on_train_end(self) -> None:
        mean, square = (torch.stack(m).mean(0) for m in zip(*self._moments, strict=True))
        self.codec.mean.copy_(mean)
        self.codec.std.copy_((square - mean.square()).clamp_min(1e-6).sqrt())
        if self.trainer.is_global_zero:
            with atomic.replacing(Path(self.out)) as scratch:
                save_file({k: v.half().cpu().contiguous() for k, v in self.codec.state_dict().items()}, scratch)

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.AdamW(self.codec.parameters(), self.lr)
        steps = self.trainer.max_steps
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda i: min(1.0, (i + 1) / 50) * max(0.005, 1 - i / steps)
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}
