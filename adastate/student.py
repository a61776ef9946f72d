"""Student: the causal network with its state cache, and the stages that initialise it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import lightning.pytorch as pl
import torch
from torch import Tensor, nn

from adastate import flow, losses
from adastate.ema import EMA
from adastate.encoders import Codec, TextEncoder, starts_with_a_picture
from adastate.net import DiT, Size
from adastate.net.masks import teacher_forcing
from adastate.noise import SampleNoise
from adastate.optim import adamw
from adastate.stream import Scene, StateCache, StreamSpec, Switch, prefill, rollout
from adastate.stream.probe import AttentionShare
from adastate.stream.rollout import Noise, forced
from adastate.types import Batch, Chunk, Memory, Probe
from adastate.weights import load, save


class Bound:
    """The network with a prompt bound: (x, t, memory) -> flow. Text keys are made once, and once under a graph."""

    def __init__(self, net: DiT, text: Tensor) -> None:
        self.net, self.text = net, text
        self._keys: dict[bool, list[tuple[Tensor, Tensor]]] = {}

    def __call__(self, x: Tensor, t: Tensor, memory: Memory) -> Tensor:
        grad = torch.is_grad_enabled()
        if grad not in self._keys:
            self._keys[grad] = self.net.text_keys(self.text)
        return self.net(x, t, self._keys[grad], memory=memory)


@dataclass(frozen=True)
class Turn:
    """New prompts within streams, one a row; `switch` None takes the stream's own choice."""

    prompts: list[str]
    switch: Switch | None = None


class Student(pl.LightningModule):
    """A causal video model that streams chunk by chunk.

    On its own it trains its initialisation from the teacher's weights (`adastate fit` with conf/stages/init.yaml);
    inside Distill it is trained on its own rollouts.

    Args:
        size: geometry of the network.
        codec, text: latents to pixels and prompts to embeddings.
        stream: every choice of the stream, see StreamSpec.
        grid: latent height and width.
        rollout_frames: latent frames of a training rollout, the horizon; a multiple of the chunk.
        weights: safetensors file or "builtin" (the tiny teacher) to start from; None for random.
        init: objective of the initialisation. `ode`: causal ODE regression, from points of the teacher's
            trajectories at the student's own levels to their end, with the clean past as context;
            `teacher_forcing`: autoregressive diffusion, flow matching with the clean past as context.
        init_state_target: what a state is taught in initialisation: nothing (there is no state slot then), or the
            `first` or `last` frames of its own chunk.
        lr, betas, weight_decay, clip, warmup, decay_share: of the initialisation's AdamW, as in Teacher.
        ema, ema_start, ema_warmup: average of the weights, see EMA.
        out, save_every: safetensors file of the averaged weights.
        seed: of all randomness in training.
        compute_dtype, checkpointing: see DiT.
    """

    def __init__(
        self,
        size: Size,
        codec: Codec,
        text: TextEncoder,
        stream: StreamSpec = StreamSpec(),  # noqa: B008 - frozen
        grid: tuple[int, int] = (60, 104),
        rollout_frames: int = 21,
        weights: str | None = None,
        init: Literal["ode", "teacher_forcing"] = "ode",
        init_state_target: Literal["none", "first", "last"] = "none",
        lr: float = 1e-4,
        betas: tuple[float, float] = (0.9, 0.99),
        weight_decay: float = 0.01,
        clip: float = 1.0,
        warmup: int = 20,
        decay_share: float = 0.4,
        ema: float = 0.99,
        ema_start: int = 0,
        ema_warmup: bool = False,
        out: str | None = None,
        save_every: int = 500,
        seed: int = 0,
        compute_dtype: str | None = None,
        checkpointing: bool = False,
    ) -> None:
        super().__init__()
        stream.chunks(rollout_frames)
        self.net = DiT(size, checkpointing, compute_dtype)
        self.codec, self.text, self.spec, self.grid = codec, text, stream, grid
        self.rollout_frames, self.init, self.init_state_target = rollout_frames, init, init_state_target
        self.lr, self.betas, self.weight_decay, self.clip = lr, betas, weight_decay, clip
        self.warmup, self.decay_share, self.out, self.save_every, self.seed = warmup, decay_share, out, save_every, seed
        if init_state_target != "none" and stream.anchor != "state":
            raise ValueError(f"init_state_target {init_state_target!r} needs anchor: state, not {stream.anchor!r}")
        if weights is not None:
            load(self.net, weights)
        self.ema = EMA(self.net, ema, ema_start, ema_warmup)
        if isinstance(codec, nn.Module):
            codec.requires_grad_(False)

    @property
    def iteration(self) -> int:
        return self.ema.updates

    @property
    def chunk_frames(self) -> int:
        return self.spec.chunk_frames

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        return (self.net.size.channels, *self.grid)

    def embed(self, prompts: list[str]) -> Tensor:
        return self.text.embed(prompts).to(self.device)

    # ---- streaming

    def rollout(
        self,
        text: Tensor,
        noise: Noise,
        frames: int,
        exit_level: int | None = None,
        grad: bool = False,
        finish: bool = False,
        net: DiT | None = None,
        probe: Probe | None = None,
    ) -> Iterator[Chunk]:
        """A fresh stream of `frames` latent frames; see adastate.stream.rollout."""
        cache = StateCache(self.spec, probe)
        student = Bound(net or self.net, text)
        return rollout(student, noise, cache, self.spec.chunks(frames), self.latent_shape, exit_level, grad, finish)

    @torch.no_grad()
    def stream(
        self,
        prompts: list[str],
        frames: int,
        seed: int = 0,
        given: Tensor | None = None,
        probe: Probe | None = None,
        spec: StreamSpec | None = None,
        script: Mapping[int, Turn] | None = None,
        index: Sequence[int] | None = None,
        noise: Noise | None = None,
    ) -> Iterator[Chunk]:
        """Streams `frames` latent frames with the averaged weights.

        Args:
            seed: row i's noise is that of (seed, index[i]), however rows are batched.
            given: clean latents `[B, F, C, H, W]` that stand before the stream (image to video, continuation).
            spec: another stream than the one of training: the compared systems run on the same weights.
            script: new prompts, by the chunk with which they begin.
            index: of the rows; 0, 1, ... without.
            noise: another source than that of seed and index.
        """
        spec = spec or self.spec
        rows = range(len(prompts)) if index is None else index
        noise = noise or SampleNoise(seed, 0, rows, "stream", self.device)
        cache = StateCache(spec, probe)
        if isinstance(probe, AttentionShare):
            probe.cache = cache
        student = Bound(self.ema.net, self.embed(prompts))
        if given is not None:
            prefill(student, cache, given.to(self.device), first_alone=given.shape[1] % spec.chunk_frames == 1)
        scenes = {
            at: Scene(Bound(self.ema.net, self.embed(turn.prompts)), turn.switch) for at, turn in (script or {}).items()
        }
        reencode = self._reencode if starts_with_a_picture(self.codec) else None
        chunks = rollout(
            student,
            noise,
            cache,
            spec.chunks(frames),
            self.latent_shape,
            finish=False,
            scenes=scenes,
            reencode=reencode,
        )
        # A generator keeps the grad mode of whoever calls next(): set it around each step, not around the loop.
        while True:
            with torch.no_grad():
                chunk = next(chunks, None)
            if chunk is None:
                return
            yield chunk

    def _reencode(self, latents: Tensor, overlap: int) -> Tensor:
        """The first of the last `overlap` latents, decoded and encoded again as a picture of its own."""
        video = self.codec.decode(latents)
        picture = video[:, -self.codec.pictures(overlap)]
        return self.codec.encode(picture[:, None])

    def attention_share(self, prompts: list[str], frames: int, seed: int = 0) -> dict[str, list[float]]:
        """Mean share of a chunk's attention that goes to the anchor, the past and its own pass, for every chunk."""
        share = AttentionShare()
        for _ in self.stream(prompts, frames, seed, probe=share):
            pass
        return share.shares

    # ---- initialisation

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        noise = SampleNoise(self.seed, self.iteration, batch.index, "init", self.device)
        noisy, clean, t, target = self._pair(batch, noise)
        text = self.embed(batch.prompts)
        if self.init_state_target == "none":
            predicted = self._forced_at_once(noisy, clean, t, text)
        else:
            predicted, noisy, t, target = self._forced_through_cache(noisy, clean, t, target, text)
        if self.init == "ode":
            loss = losses.regression(flow.to_x0(noisy, predicted, t, self.spec.shift), target)
        else:
            loss = (predicted - target).square().mean()
        self.log("init/loss", loss, prog_bar=True)
        return loss

    def _pair(self, batch: Batch, noise: SampleNoise) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """(noisy, clean, timesteps [B, F], target) with one level per block; the target is x0, or the flow."""
        block = self.spec.chunk_frames
        if self.init == "ode":
            if batch.trajectory is None or batch.levels is None:
                raise ValueError(
                    "init: ode regresses teacher trajectories; use TrajectoryData, or init: teacher_forcing"
                )
            path, clean = batch.trajectory, batch.trajectory[:, -1]
            self.spec.chunks(clean.shape[1])
            at = _nearest(batch.levels, self.spec.timesteps)
            pick = torch.stack([noise.integers(len(at)) for _ in range(clean.shape[1] // block)], 1)
            index = at.to(pick.device)[pick].repeat_interleave(block, 1)
            rows, frames = torch.arange(len(batch))[:, None], torch.arange(clean.shape[1])[None]
            return path[rows, index, frames], clean, batch.levels.to(self.device)[index], clean
        if batch.latents is None:
            raise ValueError(
                "init: teacher_forcing needs latents; use ShardData, WorldData(clips=...) or TrajectoryData"
            )
        clean = batch.latents
        self.spec.chunks(clean.shape[1])
        levels = flow.sigma_table(self.spec.shift).to(self.device) * flow.TIMESTEPS
        draw = torch.stack([noise.integers(flow.TIMESTEPS) for _ in range(clean.shape[1] // block)], 1)
        t = levels[draw].repeat_interleave(block, 1)
        eps = noise.normal(*clean.shape[1:])
        return flow.add_noise(clean, eps, t, self.spec.shift), clean, t, eps - clean

    def _forced_at_once(self, noisy: Tensor, clean: Tensor, t: Tensor, text: Tensor) -> Tensor:
        """Flow of all blocks in one forward over [clean copy | noisy copy]."""
        frames = clean.shape[1]
        mask = teacher_forcing(frames, self.spec.chunk_frames, self.spec.past_frames)
        both, times = torch.cat([clean, noisy], 1), torch.cat([torch.zeros_like(t), t], 1)
        return self.net(both, times, text, positions=[*range(frames)] * 2, visible=mask)[:, frames:]

    def _forced_through_cache(
        self, noisy: Tensor, clean: Tensor, t: Tensor, target: Tensor, text: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The same chunk by chunk through the cache, each with a state that is taught a frame of its own chunk."""
        size, queries = self.spec.chunk_frames, self.spec.state_frames
        if queries > size:
            raise ValueError(
                f"a chunk of {size} frames has none to teach {queries} state frames; set init_state_target: none"
            )
        at = slice(0, queries) if self.init_state_target == "first" else slice(size - queries, size)

        def with_state(x: Tensor) -> list[Tensor]:
            return [torch.cat([chunk[:, at], chunk], 1) for chunk in x.split(size, 1)]

        parts = [with_state(x) for x in (noisy, clean, t, target)]
        predicted = forced(Bound(self.net, text), StateCache(self.spec), *parts[:3])
        noisy, t, target = (torch.cat(parts[i], 1) for i in (0, 2, 3))
        return torch.cat(list(predicted), 1), noisy, t, target

    def on_train_batch_end(self, *_: object) -> None:
        self.ema.update(self.net)
        if self.iteration % self.save_every == 0:
            self.save()

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        self.log("init/gradient_norm", nn.utils.clip_grad_norm_(self.net.parameters(), self.clip))

    def on_train_end(self) -> None:
        self.save()

    def save(self) -> None:
        if self.out and self.trainer.is_global_zero:
            save(self.ema.net, Path(self.out), stream=asdict(self.spec))

    def configure_optimizers(self) -> Any:
        steps = self.trainer.max_steps
        return adamw(self.net, self.lr, self.betas, self.weight_decay, self.warmup, self.decay_share, steps)


def _nearest(levels: Tensor, timesteps: tuple[float, ...]) -> Tensor:
    """Index of each timestep in a trajectory's levels; one farther than 1 of 1000 away is an error."""
    distance, at = (levels.cpu()[None] - torch.tensor(timesteps)[:, None]).abs().min(1)
    if distance.max() > 1:
        raise ValueError(
            f"the trajectories hold timesteps {[round(v, 1) for v in levels.tolist()]}, the student steps at "
            f"{[round(v, 1) for v in timesteps]}: write them anew with the student's steps and shift"
        )
    return at
