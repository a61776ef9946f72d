"""Student: the causal network with its state cache, and the stages that initialise it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor, nn

from adastate.diffusion.noise import SampleNoise
from adastate.distributed.protocol import TrainedNetwork, learner, shard_all, steps_of
from adastate.encoders import Codec, TextEncoder, embedded, starts_with_a_picture
from adastate.models.actions import Steering
from adastate.models.lora import Lora
from adastate.models.unread import MayEndUnread
from adastate.models.video_network import Engine, Size, VideoNetwork
from adastate.optim.adamw import adamw
from adastate.optim.ema import EMA
from adastate.optim.settings import AverageSettings, OptimizerSettings
from adastate.stream import PromptSwitch, StateCache, StreamSpec, prefill
from adastate.stream.attention_probe import AttentionShare
from adastate.stream.passes import ExitPass, Noise
from adastate.stream.prompt_switch import switch_prompt
from adastate.stream.rollout import replay_rollout, rollout
from adastate.training.initializations import Initialization, StudentNetworks
from adastate.training.initializations.causal_forward import block_causal_forward
from adastate.training.out_file import write_out
from adastate.training.prompted_network import PromptedNetwork
from adastate.training.shared_passes import SharedPasses
from adastate.types import Batch, Chunk, Probe
from adastate.weights import load_network, save_weights
from adastate.weights.checkpoint_filter import restore_frozen, strip_frozen

FROZEN = ("codec.", "frozen_net.")
"""Parts of the module that no checkpoint holds."""


class Student(MayEndUnread, pl.LightningModule):
    """A causal video model that streams chunk by chunk.

    On its own it trains its initialisation from the teacher's weights (`adastate fit` with conf/stages/init.yaml);
    inside Distill it is trained on its own rollouts.

    Args:
        size: geometry of the network.
        codec, text: latents to pixels and prompts to embeddings.
        stream: every choice of the stream, see StreamSpec.
        latent_size: latent height and width.
        rollout_frames: latent frames of a training rollout, the horizon; a multiple of the chunk.
        weights: safetensors file or "builtin" (the tiny teacher) to start from; None for random.
        init: objective of the initialisation, one of adastate.training.initializations or a class of its form; None
            for a student that is not trained on its own.
        optimizer: of the initialisation.
        average: of the weights; it is what is saved and streamed with.
        out, save_every: safetensors file of the averaged weights.
        seed: of all randomness in training.
        compute_dtype, checkpointing: see VideoNetwork.
        engine: what runs a stream's passes once its window is full: eager, compile or graph; see
            adastate.models.engine.
        fp8: whether a stream's products run in FP8; see adastate.models.linear. Training does not use it.
        lora: adapters that learn beside `weights`, which then stay as they are; None trains all of the network.
    """

    def __init__(
        self,
        size: Size,
        codec: Codec,
        text: TextEncoder,
        stream: StreamSpec = StreamSpec(),  # noqa: B008 - frozen
        latent_size: tuple[int, int] = (60, 104),
        rollout_frames: int = 21,
        weights: str | None = None,
        init: Initialization | None = None,
        optimizer: OptimizerSettings = OptimizerSettings(lr=1e-4, warmup=20, lr_decay_fraction=0.4),  # noqa: B008
        average: AverageSettings = AverageSettings(),  # noqa: B008 - frozen
        out: str | None = None,
        save_every: int = 500,
        seed: int = 0,
        compute_dtype: str | None = None,
        checkpointing: bool = False,
        lora: Lora | None = None,
        engine: Engine = "eager",
        fp8: bool = False,
    ) -> None:
        super().__init__()
        stream.chunks(rollout_frames)
        self.engine: Engine = engine
        self.fp8 = fp8
        self.codec, self.text, self.spec, self.latent_size = codec, text, stream, latent_size
        self.rollout_frames, self.init, self.optimizer = rollout_frames, init, optimizer
        self.out, self.save_every, self.seed = out, save_every, seed
        if init is not None:
            init.check(stream)
        self.net = learner(size, weights, lora, checkpointing=checkpointing, compute_dtype=compute_dtype)
        self.lora = lora
        self.ema = EMA(self.net, average.decay, average.start, average.warmup)
        self.passes = SharedPasses()
        self.frozen_net: VideoNetwork | None = None
        if init is not None and init.frozen_weights is not None:
            self.frozen_net = load_network(size, init.frozen_weights, compute_dtype=compute_dtype).requires_grad_(False)
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
        return (self.net.size.channels, *self.latent_size)

    def embed(self, prompts: list[str]) -> Tensor:
        return embedded(self.text, prompts, self.device)

    # ---- streaming

    def replay_rollout(
        self, text: Tensor, steps: Sequence[ExitPass], cache: StateCache, steering: Steering | None = None
    ) -> Iterator[Tensor]:
        """A recorded rollout once more, from `cache` on, chunk by chunk with gradient; see adastate.stream.rollout."""
        return replay_rollout(PromptedNetwork(self.net, text, share=False, steering=steering), cache, steps)

    def switch(self, text: Tensor, cache: StateCache, steering: Steering | None = None) -> None:
        """Turns the stream that `cache` remembers to a new prompt, in the stream's own way."""
        switch_prompt(PromptedNetwork(self.net, text, steering=steering), cache, self.spec.switch)

    @torch.no_grad()
    def stream(
        self,
        prompts: list[str],
        frames: int,
        seed: int = 0,
        given: Tensor | None = None,
        probe: Probe | None = None,
        spec: StreamSpec | None = None,
        switches: Mapping[int, PromptSwitch[list[str]]] | None = None,
        index: Sequence[int] | None = None,
        noise: Noise | None = None,
        actions: Tensor | Steering | None = None,
    ) -> Iterator[Chunk]:
        """Streams `frames` latent frames with the averaged weights.

        Args:
            seed: row i's noise is that of (seed, index[i]), however rows are batched.
            given: clean latents `[B, F, C, H, W]` that stand before the stream (image to video, continuation).
            spec: another stream than the one of training: the compared systems run on the same weights.
            switches: new prompts, a text a row, by the chunk with which they begin.
            index: of the rows; 0, 1, ... without.
            noise: another source than that of seed and index.
            actions: of the frames after the given ones `[B, F, A]`, the last row for all beyond; or a Steering, by
                which another thread steers the stream as it runs.
        """
        spec = spec or self.spec
        rows = range(len(prompts)) if index is None else index
        noise = noise or SampleNoise(seed, 0, rows, "stream", self.device)
        cache = StateCache(spec, probe, self.net.size.layers)
        if isinstance(probe, AttentionShare):
            probe.cache = cache
        steering = Steering.of(actions, 0 if given is None else given.shape[1])
        student = self.averaged(self.embed(prompts), steering)
        if given is not None:
            prefill(student, cache, given.to(self.device), first_alone=given.shape[1] % spec.chunk_frames == 1)
        bound = {
            at: PromptSwitch(student.other(self.embed(switch.prompt)), switch.policy)
            for at, switch in (switches or {}).items()
        }
        reencode = self._reencode if starts_with_a_picture(self.codec) else None
        chunks = rollout(
            student,
            noise,
            cache,
            spec.chunks(frames),
            self.latent_shape,
            finish=False,
            switches=bound,
            reencode=reencode,
        )
        # A generator keeps the grad mode of whoever calls next(): set it around each step, not around the loop.
        while True:
            with torch.no_grad():
                chunk = next(chunks, None)
            if chunk is None:
                return
            yield chunk

    def averaged(self, text: Tensor, steering: Steering | None = None) -> PromptedNetwork:
        """The averaged network with a prompt bound, whose passes all streams of these weights share."""
        net = self.ema.whole(self.net.weight_dtype)
        # a run has other uses for the memory of joined weights, between its previews
        keep = net is self.ema.net and self._trainer is None
        passes = self.passes.of(net, self.engine, self.fp8, keep, self.ema.updates)
        return PromptedNetwork(net, text, engine=self.engine, fp8=self.fp8, steering=steering, passes=passes)

    def _reencode(self, latents: Tensor, overlap: int) -> Tensor:
        """The first of the last `overlap` latents as a picture of its own."""
        return self.as_picture(latents[:, : latents.shape[1] - overlap + 1])

    def as_picture(self, latents: Tensor) -> Tensor:
        """The last picture of `latents` `[B, F, C, H, W]`, decoded and encoded again on its own: `[B, 1, C, H, W]`."""
        return self.codec.encode(self.codec.decode(latents)[:, -1:])

    def attention_share(self, prompts: list[str], frames: int, seed: int = 0) -> dict[str, list[float]]:
        """Mean share of a chunk's attention that goes to the anchor, the past and its own pass, for every chunk."""
        share = AttentionShare()
        for _ in self.stream(prompts, frames, seed, probe=share):
            pass
        return share.shares

    # ---- what strategies look at, see adastate.distributed.protocol

    @property
    def trained(self) -> dict[str, TrainedNetwork]:
        return {"student": TrainedNetwork("student", self.net, self.ema, self.optimizer.gradient_clip_norm)}

    @property
    def frozen(self) -> dict[str, VideoNetwork]:
        return {} if self.frozen_net is None else {"frozen": self.frozen_net}

    @property
    def accumulate(self) -> int:
        return int(self.trainer.accumulate_grad_batches)

    def configure_model(self) -> None:
        shard_all(self)

    # ---- initialisation

    def on_fit_start(self) -> None:
        if self.init is None:
            raise ValueError(
                "this student has no init, the objective of its initialisation: layer conf/stages/init.yaml"
            )
        if self.init.uses_average and not steps_of(self.trainer.strategy).averages_are_whole:
            raise ValueError(
                f"{type(self.init).__name__} runs the average in each step, and ZeRO keeps it in pieces: "
                "use conf/strategy/fsdp2.yaml"
            )

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        assert self.init is not None
        noise = SampleNoise(self.seed, self.iteration, batch.index, "init", self.device)
        loss = self.init.loss(self.networks, batch, noise)
        self.log("init/loss", loss, prog_bar=True)
        return loss

    @property
    def networks(self) -> StudentNetworks:
        """What an initialisation sees."""
        return StudentNetworks(self.net, self.ema.net, self.frozen_net, self.spec, self.embed)

    def block_causal_forward(self, noisy: Tensor, t: Tensor, text: Tensor, actions: Tensor | None = None) -> Tensor:
        """Velocity of all blocks in one block-causal forward, each of which sees the past at that past's own levels."""
        return block_causal_forward(self.net, noisy, t, text, self.spec, actions)

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """The average moves with the step, before any callback can save the one without the other."""
        super().optimizer_step(*args, **kwargs)
        self.ema.update(self.net)
        if self.iteration % self.save_every == 0 or self.iteration == self.trainer.max_steps:
            self.save()

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        self.log("init/gradient_norm", steps_of(self.trainer.strategy).clip_gradient(self.trained["student"]))

    def on_train_end(self) -> None:
        self.save(last=True)

    def save(self, last: bool = False) -> None:
        if self.out is None:
            return
        net = self.ema.whole()
        write_out(self.trainer, self.out, lambda path: save_weights(net, path, stream=asdict(self.spec)), last)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        strip_frozen(self, checkpoint, FROZEN)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        restore_frozen(self, checkpoint, FROZEN)

    def configure_optimizers(self) -> Any:
        return adamw(self.net, self.optimizer, self.trainer.max_steps)
