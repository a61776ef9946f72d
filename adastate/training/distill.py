"""Distill: trains student and critic by horizon-weighted distribution matching on the student's own rollouts."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor

from adastate.diffusion.noise import SampleNoise
from adastate.distributed.protocol import TrainedNetwork, shard_all, steps_of
from adastate.encoders import Codec
from adastate.models.unread import MayEndUnread
from adastate.models.video_network import VideoNetwork
from adastate.optim.accumulation import GlobalBatch
from adastate.optim.adamw import adamw_for, linear_warmup
from adastate.optim.settings import DistillOptimizer
from adastate.optim.spike_guard import SpikeGuard
from adastate.runtime.ranks import sample_rank
from adastate.training.config_checks import refuse_conflicts
from adastate.training.critic import Critic
from adastate.training.manual_optimization import BadUpdateError, GuardedOptimizer, StopAskedError
from adastate.training.objectives import Objective, Scores
from adastate.training.out_file import write_out
from adastate.training.rollout_sampler import RolloutSampler, RolloutSettings
from adastate.training.student import Student
from adastate.training.student_rollouts import MicroBatch, StudentSample, replay_chunks
from adastate.training.teacher import Teacher
from adastate.types import Batch, Chunk
from adastate.weights import save_weights
from adastate.weights.checkpoint_filter import restore_frozen, strip_frozen

FROZEN = ("teacher.", "student.codec.")
"""Parts of the module that are not in checkpoints."""


@dataclass(frozen=True)
class UpdateSchedule:
    """How often student and critic are updated.

    Attributes:
        student_every: iterations per update of the student; the critic is updated in each of them.
        critic_updates: critic updates per iteration.
        critic_new_rollout: whether each critic update has its own rollout; otherwise the updates of an iteration share
            one, the student's if there is one.
        critic_first: iterations at the start in which only the critic is trained.
    """

    student_every: int = 5
    critic_updates: int = 1
    critic_new_rollout: bool = True
    critic_first: int = 0


class Distill(MayEndUnread, pl.LightningModule):
    """Distils the teacher into the streaming student.

    One iteration takes `global_batch` prompts, for any number of processes and micro batches. Every
    `schedule.student_every`-th iteration updates the student, every iteration the critic.

    Args:
        teacher: provides the real score; frozen.
        student: generates the rollouts, and is trained.
        critic: provides the fake score; is trained to follow the student.
        objective: what the student learns from the scores, one of adastate.training.objectives or a class of its form.
        iterations: length of the run.
        global_batch: prompts per iteration; a multiple of processes x the datamodule's batch. Gradients are
            accumulated to it.
        schedule: how often each network is updated.
        rollouts: which clips are scored.
        replay: generate the rollout without a graph and run each chunk's exit pass again: with a detached cache the
            gradients are equal, and activations are those of one chunk for any length of the rollout.
        optimizer: settings of both optimisers.
        out: safetensors file for the student's averaged weights, written every `save_every` iterations and at the end.
        seed: seed of all randomness in training.

    Raises:
        ValueError: settings that exclude each other.
    """

    def __init__(
        self,
        teacher: Teacher,
        student: Student,
        critic: Critic,
        objective: Objective,
        iterations: int = 600,
        global_batch: int = 64,
        schedule: UpdateSchedule = UpdateSchedule(),
        rollouts: RolloutSettings = RolloutSettings(),  # noqa: B008 - frozen
        replay: bool = False,
        optimizer: DistillOptimizer = DistillOptimizer(),  # noqa: B008 - frozen
        out: str | None = None,
        save_every: int = 50,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if iterations < 1:
            raise ValueError(f"iterations is {iterations}: a run has at least 1")
        refuse_conflicts(student.spec, student.lora, objective.scores_states, rollouts.source, replay)
        self.automatic_optimization = False
        self.teacher, self.student, self.critic = teacher.requires_grad_(False).eval(), student, critic
        self.objective, self.schedule, self.optimizer, self.replay = objective, schedule, optimizer, replay
        self.iterations, self.batch = iterations, GlobalBatch(global_batch)
        self.save_streams = rollouts.long_rollout is None or rollouts.long_rollout.save_streams
        self.sampler = RolloutSampler(student, rollouts, seed)
        self.out, self.save_every, self.seed = out, save_every, seed
        self.updates = GuardedOptimizer(self, SpikeGuard(optimizer.spike, patience=optimizer.patience))
        self._iteration = 0

    # ---- what strategies look at, see adastate.distributed.protocol

    @property
    def trained(self) -> dict[str, TrainedNetwork]:
        """The trained networks, in the order of their optimisers."""
        clip = self.optimizer.gradient_clip_norm
        return {
            "student": TrainedNetwork("student", self.student.net, self.student.ema, clip),
            "critic": TrainedNetwork("critic", self.critic.net, None, clip),
        }

    @property
    def frozen(self) -> dict[str, VideoNetwork]:
        return {"teacher": self.teacher.net}

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
        """Collects micro batches to a global batch, then runs one iteration over them; equal to one large batch.

        An update that the spike guard rejects is skipped. If nothing has been updated in the iteration before, the next
        batch takes the place of its batch. An iteration that is given up because the run has to stop
        (callbacks.Preempt) does not count either; it is repeated when the run resumes.
        """
        if self.iteration >= self.iterations:  # killed between the last checkpoint and its end, and gone on with
            self.trainer.should_stop = True
            return
        collected = self.batch.add(batch, sample_rank(self.trainer).world)
        if not collected:
            return
        parts = MicroBatch.of(self.student, collected, switching=self.sampler.prompt_switch_prob > 0)
        self.updates.begin()
        streams = self.sampler.streams
        if streams is not None:
            streams.begin(parts)
        try:
            self._iterate(parts)
        except StopAskedError:
            if streams is not None:
                streams.back()
            self.updates.give_up()
            return
        except BadUpdateError as bad:
            if streams is not None and not self.updates.stepped:
                streams.back(restart=self.guard.in_a_row > 1)
            self.updates.skip(str(bad))
        if not self.skip_reason or self.updates.stepped:
            self._next_iteration()

    def _iterate(self, parts: list[MicroBatch]) -> None:
        """The updates of one iteration, over the parts of its batch."""
        made: list[StudentSample] = []
        plan = self.schedule
        if self.iteration >= plan.critic_first and self.iteration % plan.student_every == 0:
            negative = self.student.embed([self.teacher.negative_prompt])
            made = [self._replayed(part, negative) if self.replay else self._learn(part, negative) for part in parts]
            self.updates.step("student")
            self.student.ema.update(self.student.net)
        for update in range(plan.critic_updates):
            if plan.critic_new_rollout or not made:
                made = [self.student_sample(part, f"critic {update}", grad=False) for part in parts]
            for sample, part in zip(made, parts, strict=True):
                noise = self.noise(part.index, f"critic score {update}")
                told = sample.scored_text(part.text)
                found = self.critic.loss(sample.x, told, noise, sample.loss_mask, sample.actions)
                self.updates.backward("critic", *found)
            self.updates.step("critic")

    def _learn(self, part: MicroBatch, negative: Tensor) -> StudentSample:
        """The student's gradient from one part; returns its sample, for the critic."""
        sample = self.student_sample(part, "student", grad=True)
        self.updates.backward("student", *self.student_loss(sample, part.text, negative, part.index))
        return replace(sample, x=sample.x.detach(), chunks=[])

    def _replayed(self, part: MicroBatch, negative: Tensor) -> StudentSample:
        """The same without the graph of the rollout: the gradient of each chunk goes back through that chunk alone."""
        sample = self.student_sample(part, "student", grad=False, record=True)
        leaf = sample.x.requires_grad_()
        states = [replace(c, state=c.state.requires_grad_() if c.state is not None else None) for c in sample.chunks]
        sample = replace(sample, x=leaf, chunks=states)
        loss, found = self.student_loss(sample, part.text, negative, part.index)
        self.updates.note("student", loss, found)
        loss.backward()
        assert leaf.grad is not None
        for term in replay_chunks(self.student, part.text, sample, leaf.grad):
            self.manual_backward(term / self.accumulate, network=self.trained["student"])
        return replace(sample, x=leaf.detach(), chunks=[], start=None, steps=[])

    def student_sample(self, part: MicroBatch, purpose: str, grad: bool, record: bool = False) -> StudentSample:
        """The clip that is scored in this iteration, see RolloutSampler."""
        self.updates.stop_if_asked()
        rollout = self.sampler.rollout(part, self.iteration, purpose)
        with torch.set_grad_enabled(grad):
            return rollout(grad, record)

    def noise(self, index: Tensor, purpose: str) -> SampleNoise:
        return SampleNoise(self.seed, self.iteration, index, purpose, self.device)

    def student_loss(
        self, sample: StudentSample, text: Tensor, negative: Tensor, index: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The objective's loss of a sample, and curves; `text` are the prompts of its micro batch."""
        told, actions = sample.scored_text(text), sample.actions
        scores = Scores(self.teacher, self.critic, self.codec.decode, told, negative, actions)
        return self.objective.student_loss(sample, scores, lambda purpose: self.noise(index, purpose))

    # ---- optimisation

    def backward(self, loss: Tensor, *args: Any, network: TrainedNetwork | None = None, **kwargs: Any) -> None:
        """If no engine takes it (NetworkStrategy), the graph determines which network a backward is for."""
        super().backward(loss, *args, **kwargs)

    @property
    def accumulate(self) -> int:
        """Micro batches per iteration."""
        return self.batch.parts(sample_rank(self.trainer).world)

    def on_fit_start(self) -> None:
        if self.replay and steps_of(self.trainer.strategy).one_backward_per_batch:
            raise ValueError("replay goes back once a chunk, ZeRO's engines count one backward a batch: use DDP")
        plan, most = self.schedule, self.trainer.max_steps
        students = sum(i % plan.student_every == 0 for i in range(plan.critic_first, self.iterations))
        needed = self.iterations * plan.critic_updates + students
        if 0 <= most < needed:
            raise ValueError(
                f"trainer.max_steps {most} ends the run before its {self.iterations} iterations, which are {needed} "
                "steps of student and critic: leave it at -1, and set --run.iterations"
            )
        data, world = self.trainer.datamodule, sample_rank(self.trainer).world  # type: ignore[attr-defined]
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
        """The spike guard's result of the last iteration."""
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
        """Whether the module is between two iterations, so that a checkpoint is exact."""
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
        self.save(last=True)

    def save(self, last: bool = False) -> None:
        if self.out is None:
            return
        net = self.student.ema.whole()
        write_out(self.trainer, self.out, lambda path: save_weights(net, path, stream=asdict(self.student.spec)), last)

    def configure_optimizers(self) -> Any:
        told = self.optimizer
        rates, warmups = (told.student_lr, told.critic_lr), (told.student_warmup, told.critic_warmup)
        nets = zip(self.trained.values(), rates, strict=True)
        optimizers = [adamw_for(n.net, rate, told.betas, told.weight_decay) for n, rate in nets]
        return optimizers, [linear_warmup(o, n) for o, n in zip(optimizers, warmups, strict=True)]

    def train(self, mode: bool = True) -> Distill:
        super().train(mode)
        self.teacher.eval()
        return self
