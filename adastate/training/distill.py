"""Distill: teacher, student and critic together, by horizon-weighted distribution matching on own rollouts."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Literal

import lightning.pytorch as pl
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor

from adastate.diffusion import losses
from adastate.diffusion.noise import SampleNoise
from adastate.distributed.protocol import shard_all
from adastate.encoders import Codec
from adastate.models.wan import DiT
from adastate.optim.accumulation import GlobalBatch
from adastate.optim.adamw import adamw_for, clipped_step, linear_warmup
from adastate.optim.ema import EMA
from adastate.optim.manual_optimization import BadUpdateError, GuardedOptimizer
from adastate.optim.spike_guard import SpikeGuard
from adastate.training.config_checks import refuse_conflicts
from adastate.training.critic import Critic
from adastate.training.dmd_objective import Objective, ObjectiveConfig, StateLoss
from adastate.training.rollout_sampler import LongRollout, Sampler, Source
from adastate.training.student import Student
from adastate.training.student_rollouts import MicroBatch, Reward, StudentSample, replay_chunks
from adastate.training.teacher import Teacher
from adastate.types import Batch, Chunk
from adastate.weights import save
from adastate.weights.checkpoint_filter import restore_frozen, strip_frozen

FROZEN = ("teacher.", "student.codec.")
"""Parts of the module that no checkpoint holds."""


class Distill(pl.LightningModule):
    """Distils the teacher into the streaming student.

    One iteration takes `global_batch` prompts, however many processes and micro batches that means. Every
    `student_every`-th iteration updates the student, every iteration the critic.

    Args:
        teacher: gives the real score; frozen.
        student: rolls out, and learns.
        critic: gives the fake score; learns to follow the student.
        iterations: length of the run.
        global_batch: prompts an iteration; a multiple of processes x the datamodule's batch. Gradients are
            accumulated to it.
        student_every: critic updates per student update.
        critic_updates: critic updates an iteration.
        critic_new_rollout: whether each critic update has a rollout of its own; otherwise those of an iteration share
            one, the student's where there is one.
        critic_first: iterations at the start in which only the critic learns.
        horizon_weight: alpha of losses.horizon_weight.
        horizon_law: its law [D].
        state_loss: `none`: the state learns through attention alone; `dmd`: a second scored clip has a frame of each
            chunk replaced by the chunk's state, with gradient on those frames only [D].
        state_stands_for: which frame of its chunk that is [D].
        objective: `dmd`, or `sid`: score identity distillation, whose gradient goes through both scores.
        sid_alpha: see losses.sid.
        source: what the scores look at. `rollout`: the student's own streams; `noised`: real clips at the student's
            levels, denoised in one causal pass, as in CausVid (the data then has latents).
        long_rollout: rollouts beyond the horizon, see LongRollout; None: the horizon itself.
        prompt_switch_prob: share of the long streams in which the prompt changes, at a random place, to the data's
            next one.
        uniform_schedule_prob: share of the iterations in which a staircase goes chunk by chunk (Rolling-Forcing: half).
        reward, reward_beta: decoded video to a reward per clip, and beta of the weight exp(beta r) of its loss.
        replay: roll out without a graph and run each chunk's exit pass again: equal gradients with a detached cache,
            and activations of one chunk however long the rollout.
        score_timestep_range: timesteps at which the scores are compared are clamped to it.
        score_shift: shift of those timesteps; None takes the teacher's.
        student_lr, critic_lr, betas, weight_decay, gradient_clip_norm: of the two AdamW, clipped each by its own norm.
        student_warmup, critic_warmup: steps of each over which its rate rises linearly.
        spike, patience: see SpikeGuard; a loss or gradient norm that is not finite is never stepped upon.
        out: safetensors file for the student's averaged weights.
        seed: of all randomness in training.
    """

    def __init__(
        self,
        teacher: Teacher,
        student: Student,
        critic: Critic,
        iterations: int = 600,
        global_batch: int = 64,
        student_every: int = 5,
        critic_updates: int = 1,
        critic_new_rollout: bool = True,
        critic_first: int = 0,
        horizon_weight: float = 2.0,
        horizon_law: losses.HorizonLaw = "linear",
        state_loss: StateLoss = "none",
        state_stands_for: Literal["first", "last"] = "last",
        objective: Literal["dmd", "sid"] = "dmd",
        sid_alpha: float = 1.0,
        source: Source = "rollout",
        long_rollout: LongRollout | None = None,
        prompt_switch_prob: float = 0.0,
        uniform_schedule_prob: float = 0.0,
        reward: Reward | None = None,
        reward_beta: float = 2.0,
        replay: bool = False,
        score_timestep_range: tuple[float, float] = (20.0, 980.0),
        score_shift: float | None = None,
        student_lr: float = 2e-6,
        critic_lr: float = 4e-7,
        betas: tuple[float, float] = (0.0, 0.999),
        weight_decay: float = 0.01,
        gradient_clip_norm: float = 10.0,
        student_warmup: int = 0,
        critic_warmup: int = 0,
        spike: float = 10.0,
        patience: int = 5,
        out: str | None = None,
        save_every: int = 50,
        seed: int = 0,
    ) -> None:
        super().__init__()
        refuse_conflicts(student.spec, student.lora, state_loss, source, replay)
        self.automatic_optimization = False
        self.teacher, self.student, self.critic = teacher.requires_grad_(False).eval(), student, critic
        self.iterations, self.batch, self.student_every = iterations, GlobalBatch(global_batch), student_every
        self.critic_updates, self.critic_first = critic_updates, critic_first
        self.critic_new_rollout, self.replay = critic_new_rollout, replay
        self.save_streams = long_rollout is None or long_rollout.save_streams
        self.sampler = Sampler(student, seed, source, long_rollout, prompt_switch_prob, uniform_schedule_prob)
        choices = ObjectiveConfig(
            *(objective, sid_alpha, horizon_weight, horizon_law, state_loss, state_stands_for),
            *(reward, reward_beta, score_timestep_range, score_shift),
        )
        self.objective = Objective(self.teacher, student, critic, choices)
        self.student_lr, self.critic_lr, self.betas, self.weight_decay = student_lr, critic_lr, betas, weight_decay
        self.gradient_clip_norm, self.out, self.save_every, self.seed = gradient_clip_norm, out, save_every, seed
        self.warmup = (student_warmup, critic_warmup)
        self.clipped_step = clipped_step
        self.learning = ""
        self.updates = GuardedOptimizer(self, SpikeGuard(spike, patience=patience))
        self._iteration = 0

    # ---- what strategies look at: `learning`, the network that a backward is for, `clipped_step`, which they may
    # replace, `accumulate`, and these

    @property
    def trained(self) -> dict[str, DiT]:
        """The networks that learn, in the order of their optimisers."""
        return {"student": self.student.net, "critic": self.critic.net}

    @property
    def frozen(self) -> dict[str, DiT]:
        return {"teacher": self.teacher.net}

    @property
    def averages(self) -> dict[str, EMA]:
        """Averages of trained networks, by the same names."""
        return {"student": self.student.ema}

    def configure_model(self) -> None:
        shard_all(self)

    # ---- what callbacks look at

    @property
    def iteration(self) -> int:
        """Own counter: Lightning's global_step counts the steps of both optimisers."""
        return self._iteration

    @property
    def codec(self) -> Codec:
        return self.student.codec

    @property
    def rollout_frames(self) -> int:
        return self.student.rollout_frames

    @property
    def chunk_frames(self) -> int:
        return self.student.chunk_frames

    @property
    def latent_size(self) -> tuple[int, int]:
        return self.student.latent_size

    def stream(self, prompts: list[str], frames: int, seed: int = 0, **options: Any) -> Iterator[Chunk]:
        """See Student."""
        return self.student.stream(prompts, frames, seed, **options)

    def attention_share(self, prompts: list[str], frames: int, seed: int = 0) -> dict[str, list[float]]:
        return self.student.attention_share(prompts, frames, seed)

    # ---- training

    def training_step(self, batch: Batch, batch_idx: int) -> None:
        """Collects micro batches to a global batch, then runs one iteration over them: the same as one large batch.

        An update that the guard forbids is not made. If nothing of the iteration has been updated before, it is as if
        its batch had never been drawn: the next batch takes its place.
        """
        if self.iteration >= self.iterations:  # killed between the last checkpoint and its end, and gone on with
            self.trainer.should_stop = True
            return
        collected = self.batch.add(batch, self.trainer.world_size)
        if not collected:
            return
        switching = self.sampler.prompt_switch_prob > 0
        parts = [MicroBatch.of(self.student, b, slot, switching) for slot, b in enumerate(collected)]
        self.updates.begin()
        streams = self.sampler.streams
        if streams is not None:
            streams.begin(parts)
        try:
            self._iterate(parts)
        except BadUpdateError as bad:
            if streams is not None and not self.updates.stepped:
                streams.back(restart=self.guard.in_a_row > 1)
            self.updates.skip(str(bad))
        if not self.skip_reason or self.updates.stepped:
            self._next_iteration()

    def _iterate(self, parts: list[MicroBatch]) -> None:
        """The updates of one iteration, over the parts of its batch."""
        made: list[StudentSample] = []
        if self.iteration >= self.critic_first and self.iteration % self.student_every == 0:
            negative = self.student.embed([self.teacher.negative_prompt])
            made = [self._replayed(part, negative) if self.replay else self._learn(part, negative) for part in parts]
            self.updates.step("student")
            self.student.ema.update(self.student.net)
        for update in range(self.critic_updates):
            if self.critic_new_rollout or not made:
                made = [self.sample(part, f"critic {update}", grad=False) for part in parts]
            for sample, part in zip(made, parts, strict=True):
                noise = self.noise(part.index, f"critic score {update}")
                told = sample.scored_text(part.text)
                found = self.critic.loss(sample.x, told, noise, sample.loss_mask, sample.actions)
                self.updates.backward("critic", *found)
            self.updates.step("critic")

    def _learn(self, part: MicroBatch, negative: Tensor) -> StudentSample:
        """The student's gradient from one part; returns its sample, for the critic."""
        sample = self.sample(part, "student", grad=True)
        self.updates.backward("student", *self.student_loss(sample, part.text, negative, part.index))
        return replace(sample, x=sample.x.detach(), chunks=[])

    def _replayed(self, part: MicroBatch, negative: Tensor) -> StudentSample:
        """The same without the graph of the rollout: what the loss says of each chunk goes back through that alone."""
        sample = self.sample(part, "student", grad=False, record=True)
        leaf = sample.x.requires_grad_()
        states = [replace(c, state=c.state.requires_grad_() if c.state is not None else None) for c in sample.chunks]
        sample = replace(sample, x=leaf, chunks=states)
        loss, found = self.student_loss(sample, part.text, negative, part.index)
        self.updates.note("student", loss, found)
        loss.backward()
        assert leaf.grad is not None
        self.learning = "student"
        for term in replay_chunks(self.student, part.text, sample, leaf.grad):
            self.manual_backward(term / self.accumulate)
        return replace(sample, x=leaf.detach(), chunks=[], start=None, steps=[])

    def sample(self, part: MicroBatch, purpose: str, grad: bool, record: bool = False) -> StudentSample:
        """What the scores look at in this iteration, see Sampler."""
        return self.sampler.sample(part, self.iteration, purpose, grad, record)

    def noise(self, index: Tensor, purpose: str) -> SampleNoise:
        return SampleNoise(self.seed, self.iteration, index, purpose, self.device)

    def student_loss(
        self, sample: StudentSample, text: Tensor, negative: Tensor, index: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """See Objective."""
        return self.objective.student_loss(sample, text, negative, lambda purpose: self.noise(index, purpose))

    # ---- optimisation

    @property
    def accumulate(self) -> int:
        """Micro batches an iteration."""
        return self.batch.parts(self.trainer.world_size)

    def on_fit_start(self) -> None:
        if self.replay and hasattr(self.trainer.strategy, "engines"):
            raise ValueError("replay goes back once a chunk, ZeRO's engines count one backward a batch: use DDP")
        data, world = self.trainer.datamodule, self.trainer.world_size  # type: ignore[attr-defined]
        told, data.batch = data.batch, self.batch.fit(data.batch, world)  # its loader is made after this
        if data.batch != told:
            rank_zero_info(f"{world} processes share {self.batch.size} prompts an iteration: batch {data.batch} each")

    @property
    def micro_batch(self) -> int:
        return self.batch.micro

    @property
    def guard(self) -> SpikeGuard:
        return self.updates.guard

    @property
    def skip_reason(self) -> str:
        """What the guard said of the last iteration."""
        return self.updates.skip_reason

    def _next_iteration(self) -> None:
        self._iteration += 1
        self.updates.finish_iteration()
        if self.iteration % self.save_every == 0 or self.iteration >= self.iterations:
            self.save()
        if self.iteration >= self.iterations:
            self.trainer.should_stop = True

    @property
    def at_boundary(self) -> bool:
        """Whether the module stands between two iterations, so that a checkpoint is exact."""
        return self.batch.is_empty

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        strip_frozen(self, checkpoint, FROZEN)
        if self.sampler.streams is not None and self.save_streams:
            checkpoint["streams"] = self.sampler.streams.state_dict()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        restore_frozen(self, checkpoint, FROZEN)
        if self.sampler.streams is not None:
            self.sampler.streams.load_state_dict(checkpoint.get("streams", {}))

    def get_extra_state(self) -> dict[str, Any]:
        return {"iteration": self._iteration, "guard": self.guard.state_dict()}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        self._iteration = state["iteration"]
        self.guard.load_state_dict(state["guard"])

    def on_train_end(self) -> None:
        self.save()

    def save(self) -> None:
        if self.out is None:
            return
        net = self.student.ema.whole()
        if self.trainer.is_global_zero:
            save(net, Path(self.out), stream=asdict(self.student.spec))

    def configure_optimizers(self) -> Any:
        rates = {"student": self.student_lr, "critic": self.critic_lr}
        optimizers = [adamw_for(net, rates[name], self.betas, self.weight_decay) for name, net in self.trained.items()]
        return optimizers, [linear_warmup(o, n) for o, n in zip(optimizers, self.warmup, strict=True)]

    def train(self, mode: bool = True) -> Distill:
        super().train(mode)
        self.teacher.eval()
        return self
