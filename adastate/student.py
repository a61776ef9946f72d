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
from adastate.net.fast import Streamer, is_whole
from adastate.net.masks import block_causal, teacher_forcing
from adastate.noise import SampleNoise
from adastate.optim import adamw
from adastate.stream import Scene, StateCache, StreamSpec, Switch, prefill, rollout
from adastate.stream.probe import AttentionShare
from adastate.stream.rollout import Noise, Step, forced, replay
from adastate.stream.rollout import Student as Student_
from adastate.types import Batch, Chunk, Memory, Probe
from adastate.weights import load, save

Init = Literal["ode", "ode_noisy", "teacher_forcing", "diffusion_forcing", "consistency"]

FROZEN = ("codec.", "ar_net.")
"""Parts of the module that no checkpoint holds."""

NOISY_PAST = ("ode_noisy", "diffusion_forcing")


class Bound:
    """The network with a prompt bound: (x, t, memory) -> flow. Text keys are made once, and once under a graph.

    Passes without gradient run through a Streamer where the weights are whole. It holds them as they are now, so a
    Bound is for one rollout: after an optimiser's step there has to be another. With `share` one graph of the text
    keys serves all passes with gradient; without, each has its own, so that each can have a backward of its own.
    """

    def __init__(self, net: DiT, text: Tensor, fast: bool = True, share: bool = True) -> None:
        self.net, self.text, self.fast, self.share = net, text, fast, share
        self._keys: list[tuple[Tensor, Tensor]] | None = None
        self._quiet: Student_ | None = None

    def __call__(self, x: Tensor, t: Tensor, memory: Memory) -> Tensor:
        if not torch.is_grad_enabled():
            if self._quiet is None:
                self._quiet = self._without_gradient()
            return self._quiet(x, t, memory)
        if self._keys is None or not self.share:
            self._keys = self.net.text_keys(self.text)
        return self.net(x, t, self._keys, memory=memory)

    def _without_gradient(self) -> Student_:
        keys, device = self.net.text_keys(self.text), self.text.device.type
        if self.fast and is_whole(self.net):
            mixed = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None
            return Streamer(self.net, keys, mixed)
        return lambda x, t, memory: self.net(x, t, keys, memory=memory)


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
        init: objective of the initialisation. `ode`: causal ODE regression, from points of the trajectories at the
            student's own levels to their end, with the clean past as context (Causal-Forcing); `ode_noisy`: the same
            with the past as noisy as its own level says, the way CausVid and Self-Forcing begin; `teacher_forcing`:
            autoregressive diffusion, flow matching with the clean past as context; `diffusion_forcing`: the same with
            a noisy past; `consistency`: causal consistency distillation, one step of a frozen autoregressive
            diffusion network down, and the same answer from there (Causal-Forcing++).
        ar_weights, ar_steps, ar_guidance: that network, the levels of its path, and its guidance c + w (c - u).
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
        init: Init = "ode",
        ar_weights: str | None = None,
        ar_steps: int = 48,
        ar_guidance: float = 0.0,
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
        if init_state_target != "none" and init in (*NOISY_PAST, "consistency"):
            raise ValueError(f"init_state_target {init_state_target!r} needs a clean past; init is {init!r}")
        if (init == "consistency") != (ar_weights is not None):
            raise ValueError(f"init {init!r} with ar_weights {ar_weights!r}: consistency needs them, and it alone")
        if weights is not None:
            load(self.net, weights)
        self.ema = EMA(self.net, ema, ema_start, ema_warmup)
        self.ar_steps, self.ar_guidance = ar_steps, ar_guidance
        self.ar_net: DiT | None = None
        if ar_weights is not None:
            self.ar_net = DiT(size, compute_dtype=compute_dtype).requires_grad_(False)
            load(self.ar_net, ar_weights)
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
        spec: StreamSpec | None = None,
        grad_from: int = 0,
        record: list[Step] | None = None,
    ) -> Iterator[Chunk]:
        """A fresh stream of `frames` latent frames; see adastate.stream.rollout."""
        spec = spec or self.spec
        return rollout(
            Bound(net or self.net, text),
            noise,
            StateCache(spec, probe),
            spec.chunks(frames),
            self.latent_shape,
            exit_level,
            grad,
            finish,
            grad_from=grad_from,
            record=record,
        )

    def replay(self, text: Tensor, steps: Sequence[Step]) -> Iterator[Tensor]:
        """A recorded rollout once more, chunk by chunk with gradient; see adastate.stream.rollout."""
        return replay(Bound(self.net, text, share=False), StateCache(self.spec), steps)

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
        net = self.ema.whole(self.net.patch_embedding.weight.dtype)
        student = Bound(net, self.embed(prompts))
        if given is not None:
            prefill(student, cache, given.to(self.device), first_alone=given.shape[1] % spec.chunk_frames == 1)
        scenes = {at: Scene(Bound(net, self.embed(turn.prompts)), turn.switch) for at, turn in (script or {}).items()}
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
        text = self.embed(batch.prompts)
        loss = (
            self._consistency(batch, noise, text) if self.init == "consistency" else self._regress(batch, noise, text)
        )
        self.log("init/loss", loss, prog_bar=True)
        return loss

    def _regress(self, batch: Batch, noise: SampleNoise, text: Tensor) -> Tensor:
        """Squared error of x0 or of the flow, for blocks at levels of their own."""
        noisy, clean, t, target = self._pair(batch, noise)
        if self.init_state_target != "none":
            predicted, noisy, t, target = self._forced_through_cache(noisy, clean, t, target, text)
        elif self.init in NOISY_PAST:
            predicted = self.causal_at_once(noisy, t, text)
        else:
            predicted = self._forced_at_once(self.net, noisy, clean, t, text)
        if self.init in ("ode", "ode_noisy"):
            return losses.regression(flow.to_x0(noisy, predicted, t, self.spec.shift), target)
        return (predicted - target).square().mean()

    def _consistency(self, batch: Batch, noise: SampleNoise, text: Tensor) -> Tensor:
        """|x0(x_t, t) - x0_average(x_s, s)|^2, where x_s is one step of the frozen network down the path from x_t."""
        assert self.ar_net is not None
        clean, block = self._clips(batch), self.spec.chunk_frames
        levels = flow.euler_times(self.ar_steps, self.spec.shift).to(self.device)
        draw = torch.stack([noise.integers(self.ar_steps) for _ in range(clean.shape[1] // block)], 1)
        here, there = (levels[draw + i].repeat_interleave(block, 1) for i in (0, 1))
        eps = noise.normal(*clean.shape[1:])
        x_t = _mix(clean, eps, here)
        with torch.no_grad():
            v = self._forced_at_once(self.ar_net, x_t, clean, here * flow.TIMESTEPS, text)
            if self.ar_guidance:
                nothing = self.embed([""]).expand(len(text), -1, -1)
                u = self._forced_at_once(self.ar_net, x_t, clean, here * flow.TIMESTEPS, nothing)
                v = v + self.ar_guidance * (v - u)
            x_s = x_t + _wide(there - here) * v
            average = self._forced_at_once(self.ema.net, x_s, clean, there * flow.TIMESTEPS, text)
            target = x_s - _wide(there) * average  # at the end of the path, where `there` is 0, x_s itself
        predicted = self._forced_at_once(self.net, x_t, clean, here * flow.TIMESTEPS, text)
        return losses.regression(x_t - _wide(here) * predicted, target)

    def _pair(self, batch: Batch, noise: SampleNoise) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """(noisy, clean, timesteps [B, F], target) with one level per block; the target is x0, or the flow."""
        block = self.spec.chunk_frames
        if self.init in ("ode", "ode_noisy"):
            if batch.trajectory is None or batch.levels is None:
                raise ValueError(
                    f"init: {self.init} regresses teacher trajectories; use TrajectoryData, or init: teacher_forcing"
                )
            path, clean = batch.trajectory, batch.trajectory[:, -1]
            self.spec.chunks(clean.shape[1])
            at = _nearest(batch.levels, self.spec.timesteps)
            pick = torch.stack([noise.integers(len(at)) for _ in range(clean.shape[1] // block)], 1)
            index = at.to(pick.device)[pick].repeat_interleave(block, 1)
            rows, frames = torch.arange(len(batch))[:, None], torch.arange(clean.shape[1])[None]
            return path[rows, index, frames], clean, batch.levels.to(self.device)[index], clean
        clean = self._clips(batch)
        levels = flow.sigma_table(self.spec.shift).to(self.device) * flow.TIMESTEPS
        draw = torch.stack([noise.integers(flow.TIMESTEPS) for _ in range(clean.shape[1] // block)], 1)
        t = levels[draw].repeat_interleave(block, 1)
        eps = noise.normal(*clean.shape[1:])
        return flow.add_noise(clean, eps, t, self.spec.shift), clean, t, eps - clean

    def _clips(self, batch: Batch) -> Tensor:
        if batch.latents is None:
            raise ValueError(f"init: {self.init} needs latents; use ShardData, WorldData(clips=...) or TrajectoryData")
        self.spec.chunks(batch.latents.shape[1])
        return batch.latents

    def _forced_at_once(self, net: DiT, noisy: Tensor, clean: Tensor, t: Tensor, text: Tensor) -> Tensor:
        """Flow of all blocks in one forward over [clean copy | noisy copy]."""
        return forced_at_once(net, noisy, clean, t, text, self.spec)

    def causal_at_once(self, noisy: Tensor, t: Tensor, text: Tensor) -> Tensor:
        """Flow of all blocks in one block-causal forward, each of which sees the past at that past's own levels."""
        past, block = self.spec.past_frames, self.spec.chunk_frames
        mask = block_causal(noisy.shape[1], block, None if past is None else past + block)
        return self.net(noisy, t, text, visible=mask)

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

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """The average moves with the step, before any callback can save the one without the other."""
        super().optimizer_step(*args, **kwargs)
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

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Frozen parts come from their own files again."""
        state = checkpoint["state_dict"]
        checkpoint["state_dict"] = {k: v for k, v in state.items() if not k.startswith(FROZEN)}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        own = {k: v for k, v in self.state_dict().items() if k.startswith(FROZEN)}
        checkpoint["state_dict"] = {**own, **checkpoint["state_dict"]}

    def configure_optimizers(self) -> Any:
        steps = self.trainer.max_steps
        return adamw(self.net, self.lr, self.betas, self.weight_decay, self.warmup, self.decay_share, steps)


def forced_at_once(net: DiT, noisy: Tensor, clean: Tensor, t: Tensor, text: Tensor, spec: StreamSpec) -> Tensor:
    """Flow `[B, F, C, H, W]` of all blocks of `noisy`, each after the clean blocks before it (teacher forcing)."""
    frames = clean.shape[1]
    mask = teacher_forcing(frames, spec.chunk_frames, spec.past_frames)
    both, times = torch.cat([clean, noisy], 1), torch.cat([torch.zeros_like(t), t], 1)
    return net(both, times, text, positions=[*range(frames)] * 2, visible=mask)[:, frames:]


def _wide(levels: Tensor) -> Tensor:
    """`[B, F]` over latents."""
    return levels[:, :, None, None, None]


def _mix(x0: Tensor, noise: Tensor, levels: Tensor) -> Tensor:
    return (1 - _wide(levels)) * x0 + _wide(levels) * noise


def _nearest(levels: Tensor, timesteps: tuple[float, ...]) -> Tensor:
    """Index of each timestep in a trajectory's levels; one farther than 1 of 1000 away is an error."""
    distance, at = (levels.cpu()[None] - torch.tensor(timesteps)[:, None]).abs().min(1)
    if distance.max() > 1:
        raise ValueError(
            f"the trajectories hold timesteps {[round(v, 1) for v in levels.tolist()]}, the student steps at "
            f"{[round(v, 1) for v in timesteps]}: write them anew with the student's steps and shift"
        )
    return at
