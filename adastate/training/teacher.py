"""Teacher: the bidirectional network. It trains by flow matching, or stands frozen and gives the real score."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any, Literal

import lightning.pytorch as pl
import torch
from torch import Tensor, nn

from adastate.config.conf_files import conf_path
from adastate.diffusion import flow, losses, solvers
from adastate.diffusion.noise import SampleNoise
from adastate.distributed.protocol import TrainedNetwork, learner, shard_all, steps_of
from adastate.encoders import Codec, TextEncoder, embedded
from adastate.models.actions import given, not_given
from adastate.models.lora import Lora
from adastate.models.unread import MayEndUnread
from adastate.models.video_network import Size, VideoNetwork
from adastate.optim.adamw import adamw
from adastate.optim.ema import EMA
from adastate.optim.settings import AverageSettings, OptimizerSettings
from adastate.runtime.text_files import read_text
from adastate.training.out_file import write_out
from adastate.types import Batch, Chunk
from adastate.weights import save_weights
from adastate.weights.checkpoint_filter import restore_frozen, strip_frozen

FROZEN = ("codec.",)
"""Parts of the module that no checkpoint holds."""


class Teacher(MayEndUnread, pl.LightningModule):
    """A bidirectional video diffusion model over whole clips.

    Args:
        size: geometry of the network.
        codec, text: pixels to latents and prompts to embeddings; a teacher that only scores latents needs neither.
        latent_size: latent height and width of the clips it samples.
        rollout_frames: latent frames of a clip.
        weights: safetensors file, "builtin" for the bundled tiny teacher, None for random.
        timestep_shift: of the noise table; more puts more of the levels near noise.
        guidance: w in c + w (c - u), the conditional and unconditional predictions; w = 3 is scale 4 in the other
            usual convention u + g (c - u).
        negative_prompt: what u is conditioned on; a name that ends in .txt is a file that holds it.
        solver: of the ODE in `sample`: `euler`, or Wan2.1's own `unipc`, which needs fewer steps.
        dropout: share of prompts replaced by the negative prompt while training.
        optimizer: of its training.
        average: of the weights, which is saved and sampled from; None keeps none (a frozen teacher).
        out: safetensors file for the averaged weights, written every `save_every` steps and at the end.
        seed: of all randomness in training.
        compute_dtype, checkpointing, compiled: see `VideoNetwork`.
        lora: adapters that learn beside `weights`, which then stay as they are; None trains all of the network.
    """

    def __init__(
        self,
        size: Size,
        codec: Codec | None = None,
        text: TextEncoder | None = None,
        latent_size: tuple[int, int] = (60, 104),
        rollout_frames: int = 21,
        weights: str | None = None,
        timestep_shift: float = 5.0,
        guidance: float = 3.0,
        negative_prompt: str = "",
        solver: Literal["euler", "unipc"] = "euler",
        dropout: float = 0.1,
        optimizer: OptimizerSettings = OptimizerSettings(),  # noqa: B008 - frozen
        average: AverageSettings | None = AverageSettings(0.999, warmup=True),  # noqa: B008 - frozen
        out: str | None = None,
        save_every: int = 500,
        seed: int = 0,
        compute_dtype: str | None = None,
        checkpointing: bool = False,
        compiled: bool = False,
        lora: Lora | None = None,
    ) -> None:
        super().__init__()
        options = {"checkpointing": checkpointing, "compute_dtype": compute_dtype, "compiled": compiled}
        self.net = learner(size, weights, lora, **options)
        self.codec, self.text = codec, text
        self.rollout_frames = rollout_frames
        self.latent_size, self.timestep_shift, self.guidance = latent_size, timestep_shift, guidance
        self.negative_prompt, self.solver = _read_prompt(negative_prompt), solver
        self.dropout, self.optimizer, self.out, self.save_every, self.seed = dropout, optimizer, out, save_every, seed
        self.ema = None if average is None else EMA(self.net, average.decay, average.start, average.warmup)
        if isinstance(codec, nn.Module):
            codec.requires_grad_(False)

    @property
    def chunk_frames(self) -> int:
        return self.rollout_frames

    @property
    def iteration(self) -> int:
        """Updates so far; the trainer counts them where there is no average that does."""
        if self.ema is not None:
            return self.ema.updates
        return 0 if self._trainer is None else self.trainer.global_step

    # ---- what strategies look at, see adastate.distributed.protocol

    @property
    def trained(self) -> dict[str, TrainedNetwork]:
        return {"teacher": TrainedNetwork("teacher", self.net, self.ema, self.optimizer.gradient_clip_norm)}

    @property
    def frozen(self) -> dict[str, VideoNetwork]:
        return {}

    @property
    def accumulate(self) -> int:
        return int(self.trainer.accumulate_grad_batches)

    def configure_model(self) -> None:
        shard_all(self)

    # ---- training

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        x0 = self.latents(batch)
        noise = SampleNoise(self.seed, self.iteration, batch.index, "teacher", x0.device)
        t = flow.sigmas_on(self.timestep_shift, x0.device)[noise.integers(flow.TIMESTEPS)] * flow.TIMESTEPS
        keep = noise.uniform() >= self.dropout
        told = None if batch.actions is None else given(batch.actions).to(x0.device, non_blocking=True)
        actions = None if told is None else not_given(told, ~keep)
        # chosen where they are: the host need not know which are dropped
        text, negative = self.embed([*batch.prompts, self.negative_prompt]).tensor_split([len(batch.prompts)])
        text = torch.where(keep[:, None, None], text, negative)
        eps = noise.normal(*x0.shape[1:])
        predicted = flow.predicted(self.net, x0, eps, t, text, self.timestep_shift, actions)
        loss = losses.flow_matching(predicted, x0, eps)
        self.log("teacher/loss", loss, prog_bar=True)
        return loss

    @property
    def averaged(self) -> VideoNetwork:
        """The weights to sample from; where they are in pieces every process must ask."""
        return self.net if self.ema is None else self.ema.whole(self.net.weight_dtype)

    def latents(self, batch: Batch) -> Tensor:
        """Clean latents of a batch, encoded here if it brings video."""
        if batch.latents is not None:
            return batch.latents
        if batch.video is None:
            raise ValueError(
                "this stage needs latents or video, but the datamodule gives prompts only: use WorldData or ShardData"
            )
        if self.codec is None:
            raise ValueError("this teacher was made without a codec and cannot encode video")
        return self.codec.encode(batch.video)

    def embed(self, prompts: list[str]) -> Tensor:
        if self.text is None:
            raise ValueError("this teacher was made without a text encoder")
        return embedded(self.text, prompts, self.device)

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """The average moves with the step, before any callback can save the one without the other."""
        super().optimizer_step(*args, **kwargs)
        if self.ema is not None:
            self.ema.update(self.net)
        done = self.iteration + (self.ema is None)  # the trainer counts this one afterwards
        if done % self.save_every == 0 or done == self.trainer.max_steps:
            self._save()

    def velocity(
        self,
        x_t: Tensor,
        t: Tensor,
        text: Tensor,
        negative: Tensor | None = None,
        net: VideoNetwork | None = None,
        actions: Tensor | None = None,
    ) -> Tensor:
        """Guided velocity c + w (c - u) for `x_t` [B, F, C, H, W] at `t` [B]; both branches in one batch.

        `actions` [B, F, A + 1] are c's, with their flag; u has none.
        """
        net = net or self.net
        if negative is None or self.guidance == 0:
            return net(x_t, t, text, actions=actions)
        both = None if actions is None else torch.cat([actions, torch.zeros_like(actions)])
        texts = torch.cat([text, negative.expand_as(text)])
        c, u = net(torch.cat([x_t, x_t]), torch.cat([t, t]), texts, actions=both).chunk(2)
        return c + self.guidance * (c - u)

    def x0(
        self,
        x_t: Tensor,
        t: Tensor,
        text: Tensor,
        negative: Tensor | None = None,
        net: VideoNetwork | None = None,
        actions: Tensor | None = None,
    ) -> Tensor:
        """Guided prediction of x0, c + w (c - u) of x0s as of velocities, for `x_t` [B, F, C, H, W] at `t` [B]."""
        return flow.to_x0(x_t, self.velocity(x_t, t, text, negative, net, actions), t, self.timestep_shift)

    @torch.no_grad()
    def trajectory(self, prompts: list[str], noise: Tensor, levels: Tensor, actions: Tensor | None = None) -> Tensor:
        """Guided deterministic Euler path from `noise` [B, F, C, H, W] along `levels`, from 1 to 0.

        `actions` [B, F, A] are 0/1 columns, without a flag.

        Returns:
            Samples at every level, `[B, len(levels), F, C, H, W]`, from noise to data.
        """
        text, negative = self.embed(prompts), self.embed([self.negative_prompt])
        levels, steered = levels.to(noise.device), None if actions is None else given(actions.to(noise.device))
        x, path, net = noise, [noise], self.averaged
        for now, then in pairwise(levels):
            t = (now * flow.TIMESTEPS).expand(len(prompts))
            x0 = self.x0(x, t, text, negative, net, steered)
            x = x0 + then / now * (x - x0)
            path.append(x)
        return torch.stack(path, 1)

    def sample(
        self,
        prompts: list[str],
        frames: int,
        steps: int = 16,
        seed: int = 0,
        shift: float | None = None,
        index: Sequence[int] | None = None,
        actions: Tensor | None = None,
    ) -> Tensor:
        """Clips `[B, F, C, H, W]`, steered by `actions` [B, F, A] if they are given.

        Row i starts from the noise of (seed, index[i]), that of its own number without.
        """
        rows = range(len(prompts)) if index is None else index
        noise = SampleNoise(seed, 0, rows, "sample", self.device)
        start = noise.normal(frames, self.net.size.channels, *self.latent_size)
        shift = self.timestep_shift if shift is None else shift
        if self.solver == "unipc":
            return self._unipc(prompts, start, steps, shift, actions)
        return self.trajectory(prompts, start, flow.euler_times(steps, shift), actions)[:, -1]

    @torch.no_grad()
    def _unipc(
        self, prompts: list[str], noise: Tensor, steps: int, shift: float, actions: Tensor | None = None
    ) -> Tensor:
        steered = None if actions is None else given(actions.to(noise.device))
        text, negative = self.embed(prompts), self.embed([self.negative_prompt])
        (levels, times), net = solvers.unipc_levels(steps, shift), self.averaged

        def predict(x: Tensor, i: int) -> Tensor:
            return self.velocity(x, times[i].float().to(x.device).expand(len(x)), text, negative, net, steered)

        return solvers.unipc(predict, noise, levels)[-1]

    def stream(
        self,
        prompts: list[str],
        frames: int,
        seed: int = 0,
        index: Sequence[int] | None = None,
        actions: Tensor | None = None,
    ) -> Iterator[Chunk]:
        """One chunk of at most `rollout_frames`: the teacher knows no longer clip. For the callbacks."""
        frames = min(frames, self.rollout_frames)
        actions = None if actions is None else actions[:, :frames]
        made = self.sample(prompts, frames, seed=seed, index=index, actions=actions)
        yield Chunk(0, 0, made, None, passes=16)

    def configure_optimizers(self) -> Any:
        return adamw(self.net, self.optimizer, self.trainer.max_steps)

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        self.log("teacher/gradient_norm", steps_of(self.trainer.strategy).clip_gradient(self.trained["teacher"]))

    def on_train_end(self) -> None:
        self._save(last=True)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        strip_frozen(self, checkpoint, FROZEN)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        restore_frozen(self, checkpoint, FROZEN)

    def _save(self, last: bool = False) -> None:
        if self.out is None:
            return
        net = self.net if self.ema is None else self.ema.whole()
        write_out(self.trainer, self.out, lambda path: save_weights(net, path), last)


def _read_prompt(text: str) -> str:
    if not text.endswith(".txt"):
        return text
    file = conf_path(text)
    if not file.is_file():
        raise FileNotFoundError(f"no negative prompt at {text}; conf/prompts/ holds Wan2.1's")
    return read_text(file).strip()
